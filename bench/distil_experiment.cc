// Distils a teacher in one process, without services, and prints the evaluation's table: for
// choosing a recipe. Triples are simulated once and kept in a file.
#include <ATen/Parallel.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "model/files/error.h"
#include "model/png.h"
#include "model/text_to_image.h"
#include "services/dataset/epoch_plan.h"
#include "services/dataset/holdout.h"
#include "services/dataset/noise.h"
#include "services/dataset/prompt_order.h"
#include "worker/distil/train_step.h"
#include "worker/evaluate/measures.h"
#include "worker/evaluate/pictures.h"

namespace d2g {
namespace {

struct Options {
  std::string teacher, evaluator, features, prompts, cache, grid;
  int64_t triples = 2048;
  int64_t holdout_every = 4;
  int64_t batch = 64;
  uint64_t seed = 1;
  double guidance = 3;
  double huber_weight = 1, huber_c = 0.03, features_weight = 0;
  std::string schedule = "constant";
  int threads = 2;
  int64_t steps = 300;
  bool timing = false;
  int64_t first_step = 0, last_step = -1;
  int64_t measure_every = 0;
  std::string load, save;
  distil::TrainStepOptions step;
};

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::vector<std::string> ReadLines(const std::string& path) {
  std::ifstream file(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  if (lines.empty()) model::Fail(path, " has no lines");
  return lines;
}

// Noise of all triples [N,C,H,W].
at::Tensor AllNoise(const Options& options, std::vector<int64_t> shape) {
  shape.insert(shape.begin(), options.triples);
  const at::Tensor noise = at::empty(shape, at::kFloat);
  const int64_t count = noise[0].numel();
  for (int64_t i = 0; i < options.triples; ++i) {
    dataset::FillNoise(options.seed, i,
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
  for (int64_t begin = 0; begin < options.triples; begin += 32) {
    parts.push_back(teacher
                        .Solve(noise.slice(0, begin, begin + 32), text.slice(0, begin, begin + 32),
                               unconditional, {.steps = 50, .guidance = options.guidance})
                        .to(at::kHalf)
                        .to(at::kFloat));
  }
  const at::Tensor x = at::cat(parts);
  std::cout << "simulated " << options.triples << " in " << Now() - start << " s" << std::endl;
  model::WriteSafetensors(options.cache, {{"x", x}});
  return x;
}

void Print(const char* name, const std::vector<evaluate::NamedInterval>& measures) {
  std::cout << name;
  for (const auto& [measure, interval] : measures) {
    std::cout << "  " << measure << " " << interval.value << " [" << interval.low << ", "
              << interval.high << "]";
  }
  std::cout << std::endl;
}

void Run(Options& options) {
  at::set_num_threads(options.threads);
  const model::TextToImageModel teacher = model::TextToImageModel::Load(options.teacher);
  const std::vector<std::string> prompts = ReadLines(options.prompts);
  auto prompt_of = [&](int64_t index) {
    return dataset::PromptIndexOf(options.seed, index, static_cast<int64_t>(prompts.size()));
  };
  std::vector<int64_t> prompt_rows;
  for (int64_t i = 0; i < options.triples; ++i) prompt_rows.push_back(prompt_of(i));
  const at::Tensor embeddings = evaluate::EncodeAll(teacher, prompts);
  const at::Tensor text = embeddings.index_select(0, at::tensor(prompt_rows));
  const at::Tensor z = AllNoise(options, teacher.latent_shape());
  const at::Tensor x = Simulate(options, teacher, z, text);

  options.step.steps = options.steps;
  if (options.last_step < 0) options.last_step = options.steps;
  if (options.schedule == "cosine") options.step.schedule = distil::Schedule::kCosine;
  const distil::OneStepGenerator conversion(teacher.scheduler(), std::nullopt, "x0");
  std::vector<std::shared_ptr<const distil::RegressionTerm>> regression;
  if (options.huber_weight > 0) {
    regression.push_back(distil::MakePseudoHuberTerm(options.huber_weight, options.huber_c));
  }
  if (options.features_weight > 0) {
    regression.push_back(distil::MakeFeatureTerm(options.features_weight,
                                                 std::make_shared<const distil::SequentialNet>(
                                                     distil::SequentialNet::Load(options.features)),
                                                 z.size(1)));
  }
  distil::TrainStep step(options.step, teacher.unet(), conversion, regression, at::kCPU);
  if (!options.load.empty()) {
    // A run without D may be gone on from with one.
    std::map<std::string, model::TensorMap> state = step.State();
    for (auto& [file, tensors] : state) {
      const std::string path = options.load + "." + file;
      if (std::filesystem::exists(path)) tensors = model::ReadSafetensors(path);
    }
    step.LoadState(state);
  }
  dataset::IndexSet sealed;
  sealed.Merge({0, options.triples});
  evaluate::HeldOut held_out;
  held_out.indices = dataset::HeldOutIndices(sealed, options.holdout_every, options.triples);
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
                                             .holdout_every = options.holdout_every,
                                             .seed = options.seed,
                                             .epoch = ++epoch,
                                             .global_batch = options.batch,
                                             .prompt_of = prompt_of,
                                             .r1_every = 0});
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
          distil::NegativeKindAt(static_cast<int64_t>(i), options.step.gan.mismatch_weight));
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

    step.Begin(k, static_cast<double>(items.size()), 1);
    step.GeneratorForward(batch);
    if (step.trains_discriminator()) {
      step.DiscriminatorBackward();
      step.UpdateDiscriminator();
    }
    step.GeneratorBackward();
    const distil::UpdateResult update = step.UpdateGenerator();
    if (k % 20 == 0 || k + 1 == options.last_step) {
      std::cout << "step " << k << " " << Now() - start << " s norm " << update.gradient_norm;
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

  const evaluate::Evaluator evaluator = evaluate::Evaluator::Load(options.evaluator);
  const std::vector<int64_t> labels = evaluate::LabelsOf(evaluator, held_out);
  const auto state = step.State();
  const model::UNet2DConditionModel student(teacher.unet().config(), state.at("ema"));
  const double measuring = Now();
  const model::SolverOptions one{.steps = 1, .guidance = options.guidance};
  const model::SolverOptions full{.steps = 50, .guidance = options.guidance};
  const auto solutions = evaluate::TeacherSolutions(teacher, held_out, tick);
  const auto single = evaluate::TeacherPictures(teacher, held_out, held_text, one, tick);
  const auto made =
      evaluate::StudentPictures(teacher, student, conversion, held_out, held_text, tick);
  std::cout << "pictures made in " << Now() - measuring << " s" << std::endl;
  Print("teacher_50", MeasureQuality(evaluator, held_out, labels, solutions, 1));
  Print("teacher_1 ", MeasureQuality(evaluator, held_out, labels, single, 1));
  Print("student_1 ", MeasureQuality(evaluator, held_out, labels, made, 1));
  std::cout << "measured in " << Now() - measuring << " s" << std::endl;
  if (step.has_discriminator()) measure_discriminator(made.latents);
  if (options.timing) {
    Print("teacher_50", TimeTeacher(teacher, held_out, held_text, full, 20, tick));
    Print("student_1 ", TimeStudent(teacher, student, conversion, held_out, held_text, 20, tick));
    std::cout << "everything in " << Now() - measuring << " s" << std::endl;
  }
  if (!options.grid.empty()) {
    model::WritePng(options.grid, evaluate::SideBySide({&solutions, &single, &made}, labels, 10));
  }
}

}  // namespace
}  // namespace d2g

int main(int argc, char** argv) {
  d2g::Options options;
  CLI::App app{"Distils a teacher in one process and measures the student"};
  app.add_option("--teacher", options.teacher)->required();
  app.add_option("--evaluator", options.evaluator)->required();
  app.add_option("--features", options.features);
  app.add_option("--prompts", options.prompts)->required();
  app.add_option("--cache", options.cache, "triples are kept here")->required();
  app.add_option("--grid", options.grid, "side-by-side PNG");
  app.add_option("--triples", options.triples);
  app.add_option("--holdout-every", options.holdout_every);
  app.add_option("--seed", options.seed, "of the triples; another needs another cache");
  app.add_option("--guidance", options.guidance);
  app.add_option("--steps", options.steps);
  app.add_option("--batch", options.batch);
  app.add_option("--threads", options.threads);
  app.add_flag("--timing", options.timing);
  app.add_option("--first-step", options.first_step);
  app.add_option("--last-step", options.last_step, "stop here; the schedule still ends at --steps");
  app.add_option("--measure-every", options.measure_every, "how D does on held-out triples");
  app.add_option("--load", options.load, "start from files with this prefix");
  app.add_option("--save", options.save, "write the end's state to files with this prefix");
  app.add_option("--huber", options.huber_weight);
  app.add_option("--huber-c", options.huber_c);
  app.add_option("--features-weight", options.features_weight);
  app.add_option("--schedule", options.schedule);
  app.add_option("--lr", options.step.learning_rate);
  app.add_option("--warmup", options.step.warmup_steps);
  app.add_option("--clip", options.step.clip_norm);
  app.add_option("--ema", options.step.ema_decay);
  app.add_option("--gan", options.step.gan.weight);
  app.add_option("--gan-start", options.step.gan.start_step);
  app.add_option("--d-start", options.step.gan.discriminator_start_step);
  app.add_option("--d-lr", options.step.gan.learning_rate);
  app.add_option("--d-backbone-lr", options.step.gan.backbone_learning_rate);
  app.add_option("--d-decay", options.step.gan.decay_steps);
  app.add_option("--scales", options.step.gan.output_scales);
  app.add_option("--mismatch", options.step.gan.mismatch_weight);
  CLI11_PARSE(app, argc, argv);
  try {
    d2g::Run(options);
  } catch (const std::exception& error) {
    std::cerr << error.what() << std::endl;
    return 1;
  }
  return 0;
}
