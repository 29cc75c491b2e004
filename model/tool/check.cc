// d2g-model check: a teacher tried on a few trajectories before GPUs are spent on it.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <optional>

#include <unistd.h>

#include "model/files/error.h"
#include "model/png.h"
#include "model/tool/commands.h"
#include "model/tool/run_options.h"
#include "model/tool/teacher_check.h"

namespace d2g::model {

namespace {

struct CheckOptions {
  RunOptions run;
  int64_t noises = 2;
  std::string png;
  bool skip_floor = false;
};

// Where the user names none: their latents should differ.
const std::vector<std::string> kPrompts = {"a photo of a red apple on a table",
                                           "a drawing of a house by the sea"};

double Rms(const at::Tensor& x) {
  return std::sqrt(x.to(at::kDouble).square().mean().item<double>());
}

// What trajectories [prompts, noises, C, h, w] of one precision gave.
struct Trial {
  at::Tensor latents;   // [prompts * noises, C, h, w] fp32
  at::Tensor pictures;  // [prompts * noises, channels, H, W] in [-1, 1]; undefined for latents
                        // that are not finite
  double seconds = 0;
};

// Says on a terminal how far a trial is.
class Progress {
 public:
  explicit Progress(const std::string& what) : what_(what), shown_(::isatty(STDERR_FILENO) != 0) {}
  ~Progress() {
    if (shown_) std::fprintf(stderr, "\r\x1b[K");
  }
  void operator()(int64_t done, int64_t all) const {
    if (!shown_) return;
    std::fprintf(stderr, "\r\x1b[K%s: evaluation %lld of %lld", what_.c_str(),
                 static_cast<long long>(done), static_cast<long long>(all));
  }

 private:
  const std::string what_;
  const bool shown_;
};

Trial Try(const CheckOptions& options, const ModelOptions& model_options, const std::string& what) {
  const TextToImageModel model = TextToImageModel::Load(options.run.model, model_options);
  // Every prompt starts from the same noises.
  std::vector<std::string> prompts;
  for (const std::string& prompt : options.run.prompts) {
    prompts.insert(prompts.end(), static_cast<size_t>(options.noises), prompt);
  }
  const at::Tensor noise = MakeNoise(options.run.seed, options.noises, model.latent_shape())
                               .repeat({static_cast<int64_t>(options.run.prompts.size()), 1, 1, 1});
  SolverOptions solver;
  solver.steps = options.run.steps;
  solver.guidance = options.run.guidance;
  Trial trial;
  {
    const Progress progress(what);
    const auto start = std::chrono::steady_clock::now();
    const PromptEmbeddings uncond =
        solver.guidance > 1 ? model.prompts().EncodeNegative(std::nullopt) : PromptEmbeddings();
    trial.latents = model
                        .Solve(noise, model.prompts().Encode(prompts), uncond, solver,
                               [&](int64_t done, int64_t all) { progress(done, all); })
                        .cpu();
    trial.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  if (trial.latents.isfinite().all().item<bool>()) {
    trial.pictures = model.DecodeToImages(trial.latents).cpu();
  }
  return trial;
}

// Fills in what one trial says by itself.
void Describe(const Trial& trial, int64_t prompts, int64_t noises, TeacherFigures* figures) {
  const at::Tensor& latents = trial.latents;
  figures->trajectories = latents.size(0);
  figures->seconds_per_trajectory = trial.seconds / static_cast<double>(latents.size(0));
  figures->not_finite =
      latents.size(0) - latents.flatten(1).isfinite().all(1).sum().item<int64_t>();
  if (figures->not_finite > 0) return;
  figures->mean = latents.mean().item<double>();
  figures->deviation = latents.std().item<double>();
  const double size = std::max(Rms(latents), 1e-30);
  const at::Tensor grid = latents.view({prompts, noises, -1});
  figures->noise_effect = Rms(grid.select(1, 0) - grid.select(1, 1)) / size;
  figures->prompt_effect = Rms(grid[0] - grid[1]) / size;
  figures->storage_floor = Rms(latents - latents.to(at::kHalf).to(at::kFloat)) / size;
  figures->picture_deviation = trial.pictures.std().item<double>();
  figures->clipped = trial.pictures.abs().ge(1).to(at::kDouble).mean().item<double>();
}

// The same in half precision, against it.
void MeasureFloor(const CheckOptions& options, ModelOptions model_options, const Trial& exact,
                  TeacherFigures* figures) {
  if (options.skip_floor) {
    figures->floor_trouble = "--no-floor";
    return;
  }
  model_options.dtype = at::kHalf;
  try {
    const Trial half = Try(options, model_options, "fp16");
    if (!half.pictures.defined()) {
      figures->floor_trouble = "fp16 gives NaN or infinity: simulate in fp32 or bf16";
      return;
    }
    figures->arithmetic_floor =
        Rms(half.latents - exact.latents) / std::max(Rms(exact.latents), 1e-30);
    // Pictures span 2.
    figures->picture_psnr =
        20 * std::log10(2 / std::max(Rms(half.pictures - exact.pictures), 1e-9));
  } catch (const Error& error) {
    figures->floor_trouble = error.what();
  } catch (const c10::Error& error) {
    figures->floor_trouble = error.what_without_backtrace();
  }
}

const char* Word(CheckLine::Verdict verdict) {
  switch (verdict) {
    case CheckLine::Verdict::kOk:
      return "ok";
    case CheckLine::Verdict::kWarning:
      return "warning";
    case CheckLine::Verdict::kBad:
      return "bad";
  }
  return "?";
}

void Check(CheckOptions options) {
  if (options.run.prompts.empty()) options.run.prompts = kPrompts;
  if (options.run.prompts.size() < 2) Fail("--prompt is given once: two or more are compared");
  CheckOutputs({{.flag = "--png", .path = options.png, .required = true, .is_picture = true}});
  ModelOptions model_options = ToModelOptions(options.run);
  model_options.dtype = at::kFloat;
  const Trial exact = Try(options, model_options, "fp32");
  TeacherFigures figures;
  figures.steps = options.run.steps;
  figures.guidance = options.run.guidance;
  const auto prompts = static_cast<int64_t>(options.run.prompts.size());
  Describe(exact, prompts, options.noises, &figures);
  if (exact.pictures.defined()) {
    const at::Tensor bytes = TextToImageModel::ToBytes(exact.pictures);
    WritePng(options.png, PictureGrid(bytes, options.noises));
    figures.picture = std::to_string(prompts) + " prompts x " + std::to_string(options.noises) +
                      " noises of " + std::to_string(bytes.size(2)) + "x" +
                      std::to_string(bytes.size(1)) + " in " + options.png;
    MeasureFloor(options, model_options, exact, &figures);
  }
  bool bad = false;
  for (const CheckLine& line : JudgeTeacher(figures)) {
    bad = bad || line.verdict == CheckLine::Verdict::kBad;
    std::printf("%-8s %-9s %s\n", Word(line.verdict), line.topic.c_str(), line.what.c_str());
    if (!line.advice.empty()) std::printf("%18s -> %s\n", "", line.advice.c_str());
  }
  std::fflush(stdout);
  if (bad) Fail(options.run.model, ": not fit to be a teacher as it is");
}

}  // namespace

void AddCheck(CLI::App& app, Action* action) {
  auto options = std::make_shared<CheckOptions>();
  options->run.steps = 50;
  options->run.guidance = 3;
  options->png = "check.png";
  CLI::App* command = app.add_subcommand(
      "check",
      "Try a teacher on a few trajectories: finite, decoded, what half precision changes, speed");
  command->add_option("DIR", options->run.model, "Model folder in the diffusers layout")
      ->required();
  AddTexts(*command, "--prompt", &options->run.prompts, "Prompts, two or more (default: two)");
  command->add_option("--noises", options->noises, "Noises for each prompt")
      ->check(WholeNumber(2, 64));
  command->add_option("--seed", options->run.seed, "Seed of the noise")
      ->check(WholeNumber(0, std::numeric_limits<uint64_t>::max()));
  command->add_option("--steps", options->run.steps, "Solver steps")->check(WholeNumber(1, 1000));
  command->add_option("--guidance", options->run.guidance, "Guidance scale; at most 1 means none")
      ->check(Between(0, 100));
  command->add_option("--variant", options->run.variant,
                      "Weight files to read where the folder holds several: fp16, ...");
  command->add_option("--device", options->run.device, "cpu, cuda or cuda:N");
  command->add_option("--threads", options->run.threads, "CPU threads (default: all)")
      ->check(WholeNumber(1, 1024));
  command->add_option("--png", options->png, "Where the pictures go, a row for each prompt");
  command->add_flag("--no-floor", options->skip_floor,
                    "Leave out the second run, in half precision");
  command->callback([options, action] { *action = [options] { Check(*options); }; });
}

}  // namespace d2g::model
