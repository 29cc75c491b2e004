#include "worker/export/student_folder.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>

#include <nlohmann/json.hpp>
#include <set>

#include "model/config/clip_text_config.h"
#include "model/files/error.h"
#include "model/files/json_config.h"
#include "model/text_to_image.h"
#include "model/weights/safetensors.h"
#include "worker/export/component_weights.h"

namespace d2g::exporter {
namespace {

using nlohmann::json;

constexpr char kUNetStem[] = "diffusion_pytorch_model";
constexpr char kPipeline[] = "model_index.json";
constexpr char kScheduler[] = "scheduler/scheduler_config.json";
constexpr char kUNetConfig[] = "unet/config.json";
// Version of diffusers whose formats are written.
constexpr char kDiffusersVersion[] = "0.35.2";
// Largest difference between the exported pipeline's latent and the student's, in units of the
// latter's largest value. Weights are the same numbers on both sides; fp32 sums may be ordered
// differently.
constexpr double kVerifyTolerance = 1e-4;

json ReadJson(const std::string& path) {
  json value = model::ReadJsonFile(path);
  if (!value.is_object()) model::Fail(path, " is not a JSON object");
  return value;
}

// As diffusers writes its files: sorted keys, two spaces.
std::string Text(const json& value) { return value.dump(2) + "\n"; }

model::DdimScheduler TeacherScheduler(const StudentFolder& folder) {
  return model::DdimScheduler(
      model::SchedulerConfig::FromFile(folder.teacher_path + "/" + kScheduler));
}

// The averaged weights as they are stored.
model::TensorMap StoredUNet(const StudentFolder& folder) {
  const model::TensorMap teacher =
      model::ReadSafetensorsFolder(folder.teacher_path + "/unet", kUNetStem);
  model::TensorMap stored;
  for (const auto& [name, tensor] : folder.student.ema) {
    const auto found = teacher.find(name);
    const at::ScalarType dtype = found == teacher.end() ? teacher.begin()->second.scalar_type()
                                                        : found->second.scalar_type();
    stored[name] = tensor.to(dtype);
    if (!at::isfinite(stored[name]).all().item<bool>()) {
      model::Fail("the student's ", name, " is not finite as ", dtype);
    }
  }
  return stored;
}

// The teacher's, with the size that the student was trained at. In a config of a version below
// 0.9 diffusers' pipelines would take a size below 64 for 64.
json UNetConfig(const StudentFolder& folder) {
  json config = ReadJson(folder.teacher_path + "/" + kUNetConfig);
  config["_diffusers_version"] = kDiffusersVersion;
  if (folder.latent_height == folder.latent_width) {
    config["sample_size"] = folder.latent_height;
  } else {
    config["sample_size"] = {folder.latent_height, folder.latent_width};
  }
  return config;
}

json SchedulerSettings(const StudentFolder& folder) {
  const distil::StudentCheckpoint& student = folder.student;
  const model::DdimScheduler teacher = TeacherScheduler(folder);
  const distil::OneStepGenerator conversion = student.Conversion(teacher);

  json scheduler;
  scheduler["_class_name"] = "DDIMScheduler";
  scheduler["_diffusers_version"] = kDiffusersVersion;
  scheduler["num_train_timesteps"] = student.t0 + 1;
  // The betas are written out, so that start, end and kind of the schedule are only for show.
  scheduler["beta_start"] = teacher.config().beta_start;
  scheduler["beta_end"] = teacher.config().beta_end;
  scheduler["beta_schedule"] = teacher.config().beta_schedule;
  scheduler["trained_betas"] = json::array();
  for (int64_t t = 0; t <= student.t0; ++t) {
    // fp32 to double and back is exact.
    scheduler["trained_betas"].push_back(
        static_cast<double>(teacher.betas()[static_cast<size_t>(t)]));
  }
  scheduler["prediction_type"] = model::ParametrizationName(conversion.output());
  scheduler["timestep_spacing"] = "trailing";
  scheduler["steps_offset"] = 1;
  scheduler["set_alpha_to_one"] = true;
  scheduler["clip_sample"] = false;
  scheduler["clip_sample_range"] = 1.0;
  scheduler["thresholding"] = false;
  scheduler["dynamic_thresholding_ratio"] = 0.995;
  scheduler["sample_max_value"] = 1.0;
  // Where the teacher rescales, its betas above are the rescaled ones already.
  scheduler["rescale_betas_zero_snr"] = false;
  return scheduler;
}

json PipelineIndex(const StudentFolder& folder) {
  json pipeline = ReadJson(folder.teacher_path + "/" + kPipeline);
  pipeline["_diffusers_version"] = kDiffusersVersion;
  std::set<std::string> components{"scheduler"};
  for (const std::string& file : folder.teacher_files) {
    components.insert(file.substr(0, file.find('/')));
  }
  pipeline["scheduler"] = {"diffusers", "DDIMScheduler"};
  for (auto& [name, value] : pipeline.items()) {
    if (value.is_array() && value.size() == 2 && !components.contains(name)) {
      value = {nullptr, nullptr};
      if (name == "safety_checker") pipeline["requires_safety_checker"] = false;
    }
  }
  return pipeline;
}

bool IsWeightFile(const std::string& file) {
  return file.ends_with(".safetensors") || file.find(".safetensors.index.") != file.npos;
}

}  // namespace

std::vector<ExportedFile> FilesToTake(const StudentFolder& folder) {
  std::vector<ExportedFile> files;
  for (const std::string& file : folder.teacher_files) {
    if (file != kPipeline && file != kScheduler && file != kUNetConfig && !IsWeightFile(file)) {
      files.push_back({file, file});
    }
  }
  for (const ComponentWeights& weights : WeightsToTake(folder)) {
    files.insert(files.end(), weights.files.begin(), weights.files.end());
  }
  return files;
}

std::map<std::string, std::string> MakeTexts(const StudentFolder& folder) {
  std::map<std::string, std::string> texts = {{kPipeline, Text(PipelineIndex(folder))},
                                              {kScheduler, Text(SchedulerSettings(folder))},
                                              {kUNetConfig, Text(UNetConfig(folder))}};
  for (const ComponentWeights& weights : WeightsToTake(folder)) {
    if (!weights.index_path.empty()) texts[weights.index_path] = weights.index_text;
  }
  return texts;
}

void CompleteNames(const StudentFolder& folder, const ExportedFile& file,
                   const std::string& exported, const std::function<void()>& progress) {
  const std::string from = folder.teacher_path + "/" + file.from;
  model::TensorMap complete;
  for (const auto& [name, tensor] : model::ReadSafetensors(from)) {
    const std::string full = model::ClipTextTensorName(name);
    if (!complete.emplace(full, tensor).second) {
      model::Fail(from, ": has tensor ", full, " with and without its prefix");
    }
  }
  model::WriteSafetensors(exported + "/" + file.to, complete, model::ReadSafetensorsMetadata(from),
                          progress);
}

void WriteUNet(const StudentFolder& folder, const std::string& unet_folder,
               const std::function<void()>& progress) {
  model::WriteSafetensors(unet_folder + "/" + kUNetStem + ".safetensors", StoredUNet(folder),
                          {{"format", "pt"}}, progress);
}

void VerifyExport(const StudentFolder& folder, const std::string& exported,
                  const std::function<void()>& progress) {
  const at::NoGradGuard no_grad;
  const model::TextToImageModel pipeline =
      model::TextToImageModel::Load(exported, {.progress = progress});
  model::TensorMap weights = StoredUNet(folder);
  for (auto& [name, tensor] : weights) tensor = tensor.to(at::kFloat);
  const model::UNet2DConditionModel student(pipeline.unet().config(), weights);
  progress();

  std::vector<int64_t> shape = pipeline.latent_shape();
  shape.insert(shape.begin(), 1);
  const at::Tensor noise = at::randn(shape, at::detail::createCPUGenerator(1), at::kFloat);
  const at::Tensor text = pipeline.EncodePrompts({"a picture"});
  const at::Tensor expected =
      folder.student.Conversion(TeacherScheduler(folder)).Generate(student, noise, text);
  const at::Tensor found =
      pipeline.Solve(noise, text, at::Tensor(), model::SolverOptions{.steps = 1, .guidance = 1});
  const double difference = ((found - expected).abs().max() / expected.abs().max()).item<double>();
  if (!(difference <= kVerifyTolerance)) {
    model::Fail(exported, ": one step of the export differs from the student's by ", difference,
                " of its largest value, limit ", kVerifyTolerance);
  }
}

}  // namespace d2g::exporter
