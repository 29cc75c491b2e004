#include "worker/export/student_folder.h"

#include <ATen/CPUGeneratorImpl.h>

#include <nlohmann/json.hpp>
#include <set>

#include "worker/model/files/error.h"
#include "worker/model/files/json_config.h"
#include "worker/model/text_to_image.h"
#include "worker/model/weights/safetensors.h"

namespace d2g::exporter {
namespace {

using nlohmann::json;

constexpr char kUNetWeights[] = "unet/diffusion_pytorch_model";
constexpr char kPipeline[] = "model_index.json";
constexpr char kScheduler[] = "scheduler/scheduler_config.json";
// Version of diffusers whose formats are written.
constexpr char kDiffusersVersion[] = "0.35.2";
// Largest difference between the exported pipeline's latent and the student's, in units of the
// latter's largest value. Weights are the same numbers on both sides; fp32 sums may be ordered
// differently.
constexpr double kVerifyTolerance = 1e-4;

json ReadJson(const std::string& path) {
  json value = json::parse(model::ReadFileToString(path), nullptr, /*allow_exceptions=*/false);
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
      model::ReadSafetensorsFolder(folder.teacher_path + "/unet", "diffusion_pytorch_model");
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

}  // namespace

std::vector<std::string> FilesToCopy(const StudentFolder& folder) {
  std::vector<std::string> files;
  for (const std::string& file : folder.teacher_files) {
    if (file != kPipeline && file != kScheduler && !file.starts_with(kUNetWeights)) {
      files.push_back(file);
    }
  }
  return files;
}

std::map<std::string, std::string> MakeConfigs(const StudentFolder& folder) {
  const recipe::StudentCheckpoint& student = folder.student;
  const model::DdimScheduler teacher = TeacherScheduler(folder);
  const recipe::OneStepGenerator conversion = student.Conversion(teacher);

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

  json pipeline = ReadJson(folder.teacher_path + "/" + kPipeline);
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
  return {{kPipeline, Text(pipeline)}, {kScheduler, Text(scheduler)}};
}

void WriteUNet(const StudentFolder& folder, const std::string& unet_folder,
               const std::function<void()>& progress) {
  model::WriteSafetensors(unet_folder + "/diffusion_pytorch_model.safetensors", StoredUNet(folder),
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
