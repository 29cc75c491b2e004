#include "model/tool/run_options.h"

#include <charconv>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <limits>
#include <span>
#include <sstream>
#include <system_error>

#include "model/files/error.h"
#include "model/files/input_file.h"
#include "model/files/json_config.h"
#include "model/kernels/cuda_graph.h"
#include "model/png.h"
#include "model/torch_process.h"
#include "services/dataset/noise.h"
#include "services/files/file_writer.h"

namespace d2g::model {

namespace {

constexpr int64_t kMaxPictures = 4096;
constexpr int64_t kTeacherSteps = 50;
constexpr double kTeacherGuidance = 3.0;

at::Tensor ReadNoise(const std::string& path, const std::vector<int64_t>& shape) {
  const TensorMap tensors = ReadSafetensors(path);
  const auto it = tensors.find("noise");
  if (it == tensors.end()) Fail(path, ": has no tensor \"noise\"");
  const at::Tensor noise = it->second.to(at::kFloat);
  if (noise.dim() != 4 || noise.size(0) < 1 || noise.size(1) != shape[0]) {
    Fail(path, ": noise is ", noise.sizes(), ", not [B, ", shape[0], ", h, w]");
  }
  return noise;
}

}  // namespace

at::Tensor MakeNoise(uint64_t seed, int64_t count, const std::vector<int64_t>& shape) {
  at::Tensor noise = at::empty({count, shape[0], shape[1], shape[2]}, at::kFloat);
  const int64_t numel = shape[0] * shape[1] * shape[2];
  float* data = noise.mutable_data_ptr<float>();
  for (int64_t i = 0; i < count; ++i) {
    dataset::FillNoise(seed, i, std::span<float>(data + i * numel, static_cast<size_t>(numel)));
  }
  return noise;
}

CLI::Validator Between(double least, double most) {
  return CLI::Validator(
      [least, most](std::string& text) -> std::string {
        double value = 0;
        if (!CLI::detail::lexical_cast(text, value)) return text + " is not a number";
        // NaN is in no range, which a comparison of the other kind would not see.
        if (value >= least && value <= most) return "";
        std::ostringstream message;
        message << text << " is not from " << least << " to " << most;
        return message.str();
      },
      "NUMBER");
}

CLI::Validator WholeNumber(uint64_t least, uint64_t most) {
  std::ostringstream range;
  range << " from " << least << " to " << most;
  return CLI::Validator(
      [least, most, range = range.str()](std::string& text) -> std::string {
        uint64_t value = 0;
        const char* const end = text.data() + text.size();
        const auto [stop, error] = std::from_chars(text.data(), end, value);
        const bool good = error == std::errc() && stop == end && value >= least && value <= most;
        return good ? "" : text + " is not a whole number" + range;
      },
      "INT" + range.str());
}

CLI::Option* AddTexts(CLI::App& command, const std::string& name, std::vector<std::string>* texts,
                      const std::string& description) {
  // Into a vector CLI11 would read "[a, b]" as two values and "{}" as none.
  return command
      .add_option(name, CLI::callback_t([texts](const CLI::results_t& values) {
                    *texts = values;
                    return true;
                  }),
                  description)
      ->type_name("TEXT")
      ->take_all()
      ->allow_extra_args(false);
}

void AddRunFlags(CLI::App& command, RunOptions* o) {
  command.add_option("--model", o->model, "Model folder in the diffusers layout")->required();
  command.add_flag("--tile", o->tile,
                   "Decode in overlapping tiles, as diffusers' enable_tiling: less memory");
  command.add_option("--variant", o->variant,
                     "Weight files to read where the folder holds several: fp16, non_ema, ...");
  AddTexts(command, "--prompt", &o->prompts, "What to draw; may be repeated")->required();
  command.add_option("--count", o->count, "Pictures for each prompt")
      ->check(WholeNumber(1, kMaxPictures));
  command.add_option("--seed", o->seed, "Seed of the noise: picture i starts from noise (seed, i)")
      ->check(WholeNumber(0, std::numeric_limits<uint64_t>::max()));
  command.add_option("--noise", o->noise_file,
                     "Safetensors file whose \"noise\" [B, C, h, w] is used instead of --seed");
  command.add_option("--save-noise", o->save_noise, "Write the noise to this safetensors file");
  command.add_option("--scheduler", o->scheduler, "Solver, run with the scheduler file's options")
      ->check(CLI::IsMember(SolverNames()));
  command.add_option("--steps", o->steps, "Solver steps (default: 1 for a student, else 50)")
      ->check(WholeNumber(1, 1'000'000));
  command
      .add_option("--guidance", o->guidance,
                  "Guidance scale; at most 1 means none (default: none for a student, else 3)")
      ->check(Between(0, 1000));
  command
      .add_option("--guidance-rescale", o->guidance_rescale,
                  "Share by which guidance is moved back to the deviation of the prompt's output")
      ->check(Between(0, 1));
  command
      .add_option("--negative-prompt", CLI::callback_t([o](const CLI::results_t& values) {
                    o->negative_prompt = values.back();
                    return true;
                  }),
                  "What not to draw (default: no prompt, which for an XL model may not be \"\")")
      ->type_name("TEXT")
      ->allow_extra_args(false);
  command.add_option("--spacing", o->spacing, "Timestep spacing instead of the scheduler file's")
      ->check(CLI::IsMember(TimestepSpacings()));
  command
      .add_option("--dtype", o->dtype, "Arithmetic of the networks; on a CPU fp32 is the fastest")
      ->check(CLI::IsMember({"fp32", "fp16", "bf16"}));
  command.add_option("--device", o->device, "cpu, cuda or cuda:N");
  command.add_flag("--no-cuda-graphs", o->no_cuda_graphs,
                   "On a GPU, launch every kernel of a small batch anew instead of replaying them");
  command.add_option("--threads", o->threads, "CPU threads (default: all)")
      ->check(WholeNumber(1, 1024));
}

void CheckOutputs(const std::vector<Output>& outputs) {
  namespace fs = std::filesystem;
  for (const Output& output : outputs) {
    if (output.path.empty()) {
      if (output.required) Fail(output.flag, " is empty");
      continue;
    }
    std::error_code error;
    if (fs::is_directory(output.path, error)) Fail(output.flag, ": ", output.path, ": is a folder");
    if (output.is_picture && fs::path(output.path).extension() != ".png") {
      Fail(output.flag, ": ", output.path, ": pictures are written as PNG; end the name in .png");
    }
    try {
      // Makes a temporary file beside the path and removes it: what a write would do first.
      const files::FileWriter attempt(output.path);
    } catch (const std::system_error& failure) {
      Fail(output.flag, ": ", failure.what());
    }
    for (const Output& other : outputs) {
      if (&other == &output) break;
      if (!other.path.empty() &&
          fs::weakly_canonical(other.path, error) == fs::weakly_canonical(output.path, error)) {
        Fail(output.flag, ": ", output.path, ": is what ", other.flag, " writes");
      }
    }
  }
}

bool IsStudent(const std::string& folder, const DdimScheduler& scheduler) {
  const SchedulerConfig& config = scheduler.config();
  const bool student = !config.trained_betas.empty() && config.set_alpha_to_one &&
                       config.timestep_spacing == "trailing";
  const std::string lineage = folder + "/d2g.json";
  if (FileExists(lineage)) {
    const JsonConfig json(ReadJsonFile(lineage), lineage);
    if (json.Has("t0") && json.Int("t0", 0) != config.num_train_timesteps - 1) {
      json.FailAt("t0", "but the scheduler's last timestep is " +
                            std::to_string(config.num_train_timesteps - 1) +
                            ": the folder was changed after its export");
    }
  }
  return student;
}

ModelOptions ToModelOptions(const RunOptions& options) {
  ModelOptions model;
  try {
    model.device = at::Device(options.device);
  } catch (const c10::Error&) {
    Fail("--device ", options.device, " is not cpu, cuda or cuda:N");
  }
  model.dtype = options.dtype == "fp16"   ? at::kHalf
                : options.dtype == "bf16" ? at::kBFloat16
                                          : at::kFloat;
  model.variant = options.variant;
  model.tile_vae = options.tile;
  model.solver = ParseSolverKind(options.scheduler);
  model.keep_weights = false;
  if (model.device.is_cuda() && !at::hasCUDA()) {
    Fail("--device ", options.device, ": this build or machine has no CUDA");
  }
  SetUpTorchProcess(options.threads);
  if (options.no_cuda_graphs) SetCudaGraphs(false);
  return model;
}

Run Solve(const TextToImageModel& model, const RunOptions& options) {
  const auto started = std::chrono::steady_clock::now();
  const bool student =
      model.options().solver == SolverKind::kDdim && IsStudent(options.model, model.scheduler());
  Run run;
  run.steps = options.steps > 0 ? options.steps : student ? 1 : kTeacherSteps;
  run.guidance = options.guidance >= 0 ? options.guidance : student ? 1.0 : kTeacherGuidance;

  std::vector<std::string> prompts;
  for (const std::string& prompt : options.prompts) {
    prompts.insert(prompts.end(), static_cast<size_t>(options.count), prompt);
  }
  if (!options.noise_file.empty()) {
    run.noise = ReadNoise(options.noise_file, {model.unet().config().in_channels});
    const auto noises = static_cast<size_t>(run.noise.size(0));
    if (prompts.size() == 1) prompts.resize(noises, prompts.front());
    if (prompts.size() != noises) {
      Fail(options.noise_file, ": holds ", noises, " noises for ", prompts.size(), " prompts");
    }
  }
  if (prompts.size() > static_cast<size_t>(kMaxPictures)) {
    Fail(prompts.size(), " pictures are over the limit of ", kMaxPictures);
  }
  if (!run.noise.defined()) {
    run.noise = MakeNoise(options.seed, static_cast<int64_t>(prompts.size()), model.latent_shape());
  }

  SolverOptions solver;
  solver.steps = run.steps;
  solver.guidance = run.guidance;
  solver.guidance_rescale = options.guidance_rescale;
  if (!options.spacing.empty()) solver.spacing = options.spacing;
  const PromptEmbeddings uncond = run.guidance > 1
                                      ? model.prompts().EncodeNegative(options.negative_prompt)
                                      : PromptEmbeddings();
  run.latents = model.Solve(run.noise, model.prompts().Encode(prompts), uncond, solver).cpu();
  if (!at::isfinite(run.latents).all().item<bool>()) {
    Fail(options.model, ": the latents are not finite after ", run.steps, " steps of ",
         options.scheduler, " in ", options.dtype);
  }
  run.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  return run;
}

at::Tensor PictureGrid(const at::Tensor& pictures, int64_t columns, int64_t gap) {
  if (columns == 0) {
    columns = static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(pictures.size(0)))));
  }
  return MakeGrid(pictures, columns, gap);
}

void SaveNoise(const Run& run, const RunOptions& options) {
  if (!options.save_noise.empty()) WriteSafetensors(options.save_noise, {{"noise", run.noise}});
}

}  // namespace d2g::model
