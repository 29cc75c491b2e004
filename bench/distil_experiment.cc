// Does what a job file says in one process, without services, and prints the evaluation's table:
// for choosing a recipe. Triples are simulated once and kept in a file.
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <filesystem>
#include <iostream>

#include "cli/job_file.h"
#include "model/files/error.h"
#include "model/png.h"
#include "model/text_to_image.h"
#include "services/common/file_io.h"
#include "services/common/prompts.h"
#include "services/dataset/epoch_plan.h"
#include "services/dataset/holdout.h"
#include "services/dataset/noise.h"
#include "services/dataset/prompt_order.h"
#include "services/spec/normal_spec.h"
#include "worker/common/solver_options.h"
#include "worker/distil/regression.h"
#include "worker/distil/train_step.h"
#include "worker/evaluate/measures.h"
#include "worker/evaluate/pictures.h"

namespace d2g {
namespace {

// Triples that the teacher solves together.
constexpr int64_t kSimulateBatch = 32;
// Steps between two lines of figures.
constexpr int64_t kReportEvery = 20;

struct Options {
  // Normal.
  coordinator::v1::JobSpec job;
  std::vector<std::string> prompts;
  std::string cache, grid;
  int threads = 2;
  bool timing = false;
  int64_t first_step = 0, last_step = -1;
  int64_t measure_every = 0;
  std::string load, save;
};

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <typename T>
T Take(absl::StatusOr<T> value) {
  if (!value.ok()) model::Fail(std::string(value.status().message()));
  return *std::move(value);
}

// Reads the job file and its prompts, and makes the spec normal.
void LoadJob(const std::string& path, const std::vector<std::string>& assignments,
             Options* options) {
  options->job = Take(cli::LoadJobFile(path));
  for (const std::string& assignment : assignments) {
    const absl::Status set = cli::SetJobField(assignment, &options->job);
    if (!set.ok()) model::Fail(std::string(set.message()));
  }
  auto* prompts = options->job.mutable_prompts();
  common::PromptLines list = Take(common::ParsePromptList(Take(common::ReadFile(prompts->path()))));
  prompts->set_digest(list.digest);
  options->prompts = std::move(list.lines);
  for (const auto& violation : spec::NormalizeSpec(&options->job)) {
    model::Fail(violation.field, ": ", violation.description);
  }
  if (options->last_step < 0) options->last_step = options->job.train().steps();
}

// Noise of all triples [N,C,H,W].
at::Tensor AllNoise(const coordinator::v1::SimulateSpec& simulate, std::vector<int64_t> shape) {
  shape.insert(shape.begin(), simulate.triples());
  const at::Tensor noise = at::empty(shape, at::kFloat);
  const int64_t count = noise[0].numel();
  for (int64_t i = 0; i < simulate.triples(); ++i) {
    dataset::FillNoise(simulate.seed(), i,
                       {noise.mutable_data_ptr<float>() + i * count, static_cast<size_t>(count)});
  }
  return noise;
}

at::Tensor Simulate(const Options& options, const model::TextToImageModel& teacher,
                    const at::Tensor& noise, const at::Tensor& text) {
  if (std::filesystem::exists(options.cache)) {
    const at::Tensor x = model::ReadSafetensors(options.cache).at("x").clone();
    if (x.sizes() == noise.sizes()) return x;
  }
  const at::NoGradGuard no_grad;
  const double start = Now();
  const at::Tensor unconditional = teacher.EncodePrompts({""});
  std::vector<at::Tensor> parts;
  for (int64_t begin = 0; begin < noise.size(0); begin += kSimulateBatch) {
    const int64_t end = begin + kSimulateBatch;
    parts.push_back(teacher
                        .Solve(noise.slice(0, begin, end), text.slice(0, begin, end), unconditional,
                               SolverOptionsOf(options.job.simulate().solver()))
                        .to(at::kHalf)
                        .to(at::kFloat));
  }
  const at::Tensor x = at::cat(parts);
  std::cout << "simulated " << noise.size(0) << " in " << Now() - start << " s" << std::endl;
  model::WriteSafetensors(options.cache, {{"x", x}});
  return x;
}

void Print(const std::string& name, const std::vector<evaluate::NamedInterval>& measures) {
  std::cout << name;
  for (const auto& [measure, interval] : measures) {
    std::cout << "  " << measure << " " << interval.value << " [" << interval.low << ", "
              << interval.high << "]";
  }
  std::cout << std::endl;
}

void Run(const Options& options) {
  at::set_num_threads(options.threads);
  const auto& simulate = options.job.simulate();
  const auto& train = options.job.train();
  const auto& solver = simulate.solver();
  const std::vector<std::string>& prompts = options.prompts;
  const model::TextToImageModel teacher = model::TextToImageModel::Load(
      options.job.teacher().path(), {.solver = model::ParseSolverKind(solver.kind())});
  auto prompt_of = [&](int64_t index) {
    return dataset::PromptIndexOf(simulate.seed(), index, static_cast<int64_t>(prompts.size()));
  };
  std::vector<int64_t> prompt_rows;
  for (int64_t i = 0; i < simulate.triples(); ++i) prompt_rows.push_back(prompt_of(i));
  const at::Tensor embeddings = evaluate::EncodeAll(teacher, prompts);
  const at::Tensor text = embeddings.index_select(0, at::tensor(prompt_rows));
  const at::Tensor z = AllNoise(simulate, teacher.latent_shape());
  const at::Tensor x = Simulate(options, teacher, z, text);

  const distil::OneStepGenerator conversion(teacher.scheduler(), train);
  distil::TrainStep step(train, teacher.unet(), conversion,
                         distil::MakeRegressionTerms(train.regression(), z.size(1), at::kCPU),
                         at::kCPU);
  if (!options.load.empty()) {
    // A run without D may be gone on from with one.
    std::map<std::string, model::TensorMap> state = step.State();
    for (auto& [file, tensors] : state) {
      const std::string path = options.load + "." + file;
      if (std::filesystem::exists(path)) tensors = model::ReadSafetensors(path);
    }
    step.LoadState(state);
  }
  const dataset::IndexSet sealed({{0, simulate.triples()}});
  evaluate::HeldOut held_out;
  held_out.indices =
      dataset::HeldOutIndices(sealed, simulate.holdout_every(), options.job.evaluate().pictures());
  for (const int64_t index : held_out.indices) {
    held_out.prompt_of.push_back(prompt_of(index));
    held_out.prompts.push_back(prompts[static_cast<size_t>(held_out.prompt_of.back())]);
  }
  const at::Tensor rows = at::tensor(held_out.indices);
  held_out.z = z.index_select(0, rows);
  held_out.x = x.index_select(0, rows);
  const at::Tensor held_text = text.index_select(0, rows);
  const evaluate::Tick tick = [](int64_t) {};
  auto measure_discriminator = [&](const at::Tensor& latents) {
    const distil::Discriminator discriminator(teacher.unet(), step.State().at("discriminator"),
                                              at::kCPU);
    for (const auto& [name, value] :
         evaluate::MeasureDiscriminator(discriminator, held_out, held_text, latents, tick)) {
      std::cout << name << " " << value << "  ";
    }
    std::cout << std::endl;
  };
  const double start = Now();
  int64_t epoch = -1, batches = 0, place = 0;
  std::optional<dataset::EpochPlan> plan;
  for (int64_t k = options.first_step; k < options.last_step; ++k, ++place) {
    if (place >= batches) {
      plan.emplace(dataset::EpochPlanOptions{.sealed = sealed,
                                             .holdout_every = simulate.holdout_every(),
                                             .seed = train.seed(),
                                             .epoch = ++epoch,
                                             .global_batch = train.global_batch(),
                                             .prompt_of = prompt_of});
      batches = plan->num_batches();
      place = 0;
    }
    const std::vector<dataset::PlanItem> items = plan->Batch(place);
    std::vector<int64_t> rows, text_rows, noise_rows;
    distil::MicroBatch batch;
    for (size_t i = 0; i < items.size(); ++i) {
      rows.push_back(items[i].index);
      const int32_t other = items[i].mismatch_position, noise = items[i].noise_mismatch_position;
      text_rows.push_back(items[static_cast<size_t>(other < 0 ? 0 : other)].index);
      noise_rows.push_back(items[static_cast<size_t>(noise)].index);
      batch.negatives.push_back(
          distil::NegativeKindAt(static_cast<int64_t>(i), train.gan().mismatch_weight()));
    }
    auto take = [](const at::Tensor& from, const std::vector<int64_t>& wanted) {
      return from.index_select(0, at::tensor(wanted));
    };
    batch.z = take(z, rows);
    batch.x = take(x, rows);
    batch.text = take(text, rows);
    batch.weight = at::ones({batch.z.size(0)});
    batch.other_text = take(text, text_rows);
    batch.other_noise = take(z, noise_rows);

    const distil::StepResult result =
        step.Run(k, static_cast<double>(items.size()), {batch}, [](distil::Network) {});
    if (k % kReportEvery == 0 || k + 1 == options.last_step) {
      std::cout << "step " << k << " " << Now() - start << " s";
      if (result.generator) std::cout << " grad_norm_g " << result.generator->gradient_norm;
      for (const auto& [name, value] : step.Metrics()) std::cout << " " << name << " " << value;
      std::cout << std::endl;
    }
    if (options.measure_every > 0 && step.has_discriminator() &&
        (k + 1) % options.measure_every == 0) {
      const at::NoGradGuard no_grad;
      const model::UNet2DConditionModel now(teacher.unet().config(), step.State().at("ema"));
      measure_discriminator(conversion.Generate(now, held_out.z, held_text));
    }
  }
  if (!options.save.empty()) {
    for (const auto& [file, tensors] : step.State()) {
      model::WriteSafetensors(options.save + "." + file, tensors);
    }
  }
  std::cout << "trained in " << Now() - start << " s" << std::endl;

  const evaluate::Evaluator evaluator =
      evaluate::Evaluator::Load(options.job.evaluate().evaluator_path());
  const std::vector<int64_t> labels = evaluate::LabelsOf(evaluator, held_out);
  const auto state = step.State();
  const model::UNet2DConditionModel student(teacher.unet().config(), state.at("ema"));
  const double measuring = Now();
  const model::SolverOptions full = SolverOptionsOf(solver);
  model::SolverOptions one = full;
  one.steps = 1;
  const auto solutions = evaluate::TeacherSolutions(teacher, held_out, tick);
  const auto single = evaluate::TeacherPictures(teacher, held_out, held_text, one, tick);
  const auto made =
      evaluate::StudentPictures(teacher, student, conversion, held_out, held_text, tick);
  std::cout << "pictures made in " << Now() - measuring << " s" << std::endl;
  Print("teacher_" + std::to_string(full.steps),
        MeasureQuality(evaluator, held_out, labels, solutions, 1));
  Print("teacher_1 ", MeasureQuality(evaluator, held_out, labels, single, 1));
  Print("student_1 ", MeasureQuality(evaluator, held_out, labels, made, 1));
  std::cout << "measured in " << Now() - measuring << " s" << std::endl;
  if (step.has_discriminator()) measure_discriminator(made.latents);
  if (options.timing) {
    const int repeats = options.job.evaluate().timing_repeats();
    Print("teacher_" + std::to_string(full.steps),
          TimeTeacher(teacher, held_out, held_text, full, repeats, tick));
    Print("student_1 ",
          TimeStudent(teacher, student, conversion, held_out, held_text, repeats, tick));
    std::cout << "everything in " << Now() - measuring << " s" << std::endl;
  }
  if (!options.grid.empty()) {
    model::WritePng(options.grid, evaluate::SideBySide({&solutions, &single, &made}, labels,
                                                       options.job.evaluate().grid_columns()));
  }
}

}  // namespace
}  // namespace d2g

int main(int argc, char** argv) {
  d2g::Options options;
  std::string file;
  std::vector<std::string> assignments;
  CLI::App app{"Does what a job file says in one process and measures the student"};
  app.add_option("job", file, "job file, as d2g submit takes it")->required();
  app.add_option("--set", assignments, "change a field of it: train.gan.weight=0.1");
  app.add_option("--cache", options.cache,
                 "file that triples are kept in; another teacher, seed or solver needs another")
      ->required();
  app.add_option("--grid", options.grid, "side-by-side PNG to write");
  app.add_option("--threads", options.threads, "threads of the networks")->capture_default_str();
  app.add_flag("--timing", options.timing, "time single pictures too");
  app.add_option("--first-step", options.first_step, "go on from here")->capture_default_str();
  app.add_option("--last-step", options.last_step, "stop here; schedules still end at train.steps");
  app.add_option("--measure-every", options.measure_every,
                 "steps between measures of D on held-out triples");
  app.add_option("--load", options.load, "start from files with this prefix");
  app.add_option("--save", options.save, "write the end's state to files with this prefix");
  CLI11_PARSE(app, argc, argv);
  try {
    d2g::LoadJob(file, assignments, &options);
    d2g::Run(options);
  } catch (const std::exception& error) {
    std::cerr << "distil_experiment: " << error.what() << std::endl;
    return 1;
  }
  return 0;
}
