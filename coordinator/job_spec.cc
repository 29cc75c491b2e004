#include "coordinator/job_spec.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "coordinator/dataset_state.h"
#include "coordinator/interval_set.h"
#include "coordinator/limits.h"
#include "services/common/utf8.h"

namespace d2g::coordinator {

using d2g::common::FieldViolation;
using d2g::common::v1::DatasetRecipe;
using d2g::coordinator::v1::JobSpec;

namespace {

// Collects violations. Each check names the field, the value and the limit.
class Checker {
 public:
  void Fail(absl::string_view field, std::string description) {
    violations_.push_back({absl::StrCat("spec.", field), std::move(description)});
  }
  template <typename T>
  void InRange(absl::string_view field, T value, T least, T most) {
    if (value < least || value > most) {
      Fail(field, absl::StrCat(value, " is not from ", least, " to ", most));
    }
  }
  // Finite and from `least` to `most`; `least` itself only when `inclusive`.
  void Real(absl::string_view field, double value, double least, double most,
            bool inclusive = true) {
    const bool high_enough = inclusive ? value >= least : value > least;
    if (!std::isfinite(value) || !high_enough || value > most) {
      Fail(field, absl::StrCat(value, " is not ", inclusive ? "from " : "above ", least,
                               inclusive ? " to " : " and at most ", most));
    }
  }
  void OneOf(absl::string_view field, absl::string_view value,
             const std::vector<std::string>& allowed) {
    if (std::find(allowed.begin(), allowed.end(), value) == allowed.end()) {
      Fail(field, absl::StrCat("\"", value, "\" is not one of ", absl::StrJoin(allowed, ", ")));
    }
  }
  // Also makes a good path normal.
  void AbsolutePath(absl::string_view field, std::string* absolute) {
    const std::string& path = *absolute;
    if (path.empty()) {
      Fail(field, "is required");
    } else if (path.front() != '/') {
      Fail(field, absl::StrCat("\"", path, "\" is not an absolute path"));
    } else if (path.size() > kMaxPathBytes) {
      Fail(field,
           absl::StrCat("has ", path.size(), " bytes; at most ", kMaxPathBytes, " are allowed"));
    } else if (NoControls(field, path)) {
      *absolute = NormalPath(path);
    }
  }
  // Nothing that a terminal would obey (utf8.h): names are shown by many programs.
  bool NoControls(absl::string_view field, const std::string& text) {
    if (!d2g::common::HoldsControl(text)) return true;
    Fail(field,
         absl::StrCat("\"", d2g::common::WithoutControls(text), "\" holds a control character"));
    return false;
  }
  void Digest(absl::string_view field, absl::string_view value) {
    absl::string_view hex = value;
    bool good = absl::ConsumePrefix(&hex, "xxh3-128:") && hex.size() == 32;
    for (const char c : hex) good = good && (absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f'));
    if (!good) {
      Fail(field, absl::StrCat("\"", d2g::common::ValidUtf8(value, kMaxIdBytes),
                               "\" is not \"xxh3-128:\" and 32 lower-case hex digits"));
    }
  }
  std::vector<FieldViolation> Take() { return std::move(violations_); }
  bool ok() const { return violations_.empty(); }

 private:
  std::vector<FieldViolation> violations_;
};

// Sets a field that is 0 to its default: D2G_DEFAULT(train, global_batch, 64).
#define D2G_DEFAULT(message, field, value) \
  if ((message)->field() == 0) (message)->set_##field(value)

int Characters(absl::string_view utf8) {
  return static_cast<int>(
      std::count_if(utf8.begin(), utf8.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

void CheckSimulate(JobSpec* spec, Checker* check) {
  auto* simulate = spec->mutable_simulate();
  auto* solver = simulate->mutable_solver();
  if (solver->kind().empty()) solver->set_kind("ddim");
  D2G_DEFAULT(solver, steps, 50);
  if (!solver->has_guidance()) solver->set_guidance(3);
  D2G_DEFAULT(simulate, block_size, 4096);
  D2G_DEFAULT(simulate, holdout_every, 128);
  if (simulate->storage_dtype() == d2g::common::v1::DTYPE_UNSPECIFIED) {
    simulate->set_storage_dtype(d2g::common::v1::DTYPE_FP16);
  }
  D2G_DEFAULT(simulate, task_size, simulate->block_size());

  check->InRange<int64_t>("simulate.triples", simulate->triples(), 1, kMaxTriples);
  check->OneOf("simulate.solver.kind", solver->kind(), {"ddim", "euler", "dpmpp_2m", "heun"});
  check->InRange<int32_t>("simulate.solver.steps", solver->steps(), 1, kMaxSolverSteps);
  check->Real("simulate.solver.guidance", solver->guidance(), 0, kMaxGuidance);
  if (!solver->timestep_spacing().empty()) {
    check->OneOf("simulate.solver.timestep_spacing", solver->timestep_spacing(),
                 {"trailing", "leading", "linspace"});
  }
  if (!d2g::common::v1::DType_IsValid(solver->compute_dtype())) {
    check->Fail("simulate.solver.compute_dtype",
                absl::StrCat(static_cast<int>(solver->compute_dtype()),
                             " is not DTYPE_FP16, DTYPE_BF16 or DTYPE_FP32"));
  }
  // One spelling, so that equal recipes have equal digests.
  if (solver->compute_dtype() == d2g::common::v1::DTYPE_FP32) solver->clear_compute_dtype();
  check->InRange<int32_t>("simulate.block_size", simulate->block_size(), kMinBlockSize,
                          kMaxBlockSize);
  check->InRange<int32_t>("simulate.holdout_every", simulate->holdout_every(), kMinHoldoutEvery,
                          kMaxHoldoutEvery);
  if (!d2g::common::v1::DType_IsValid(simulate->storage_dtype())) {
    check->Fail("simulate.storage_dtype",
                absl::StrCat(static_cast<int>(simulate->storage_dtype()),
                             " is not DTYPE_FP16, DTYPE_BF16 or DTYPE_FP32"));
  }
  check->InRange<int32_t>("simulate.batch_size", simulate->batch_size(), 0, kMaxSimulateBatch);
  // Limits that follow from another field: its own limit where that field is bad, so that one
  // mistake is reported once.
  const bool good_block =
      simulate->block_size() >= kMinBlockSize && simulate->block_size() <= kMaxBlockSize;
  if (good_block) {
    check->InRange<int32_t>("simulate.task_size", simulate->task_size(), 1, simulate->block_size());
  }
}

void CheckTrain(JobSpec* spec, Checker* check) {
  auto* train = spec->mutable_train();
  auto* regression = train->mutable_regression();
  auto* gan = train->mutable_gan();
  D2G_DEFAULT(train, global_batch, 64);
  D2G_DEFAULT(train, min_ranks, 1);
  D2G_DEFAULT(train, learning_rate, 5e-4);
  D2G_DEFAULT(train, clip_norm, 1);
  D2G_DEFAULT(train, ema_decay, 0.99);
  D2G_DEFAULT(train, checkpoint_every, 500);
  D2G_DEFAULT(train, keep_checkpoints, 2);
  if (train->parametrization().empty()) train->set_parametrization("x0");
  if (train->schedule().empty()) train->set_schedule("constant");
  if (regression->pseudo_huber_weight() == 0 && regression->features_weight() == 0) {
    regression->set_pseudo_huber_weight(1);
  }
  D2G_DEFAULT(regression, pseudo_huber_c, 0.03);
  D2G_DEFAULT(gan, discriminator_start_step, gan->start_step());
  D2G_DEFAULT(gan, learning_rate, train->learning_rate());
  D2G_DEFAULT(gan, backbone_learning_rate, kBackboneRateShare * gan->learning_rate());

  check->InRange<int64_t>("train.steps", train->steps(), 1, kMaxTrainSteps);
  check->InRange<int32_t>("train.global_batch", train->global_batch(), 1, kMaxGlobalBatch);
  const bool good_batch = train->global_batch() >= 1 && train->global_batch() <= kMaxGlobalBatch;
  const int32_t batch = good_batch ? train->global_batch() : kMaxGlobalBatch;
  check->InRange<int32_t>("train.micro_batch", train->micro_batch(), 0, batch);
  const int32_t most_ranks = std::min(kMaxRanks, batch);
  check->InRange<int32_t>("train.min_ranks", train->min_ranks(), 1, most_ranks);
  if (train->max_ranks() != 0) {
    check->InRange<int32_t>("train.max_ranks", train->max_ranks(), std::max(1, train->min_ranks()),
                            most_ranks);
  }
  check->Real("train.learning_rate", train->learning_rate(), 0, kMaxLearningRate, false);
  const bool good_steps = train->steps() >= 1 && train->steps() <= kMaxTrainSteps;
  const int32_t steps_limit = static_cast<int32_t>(good_steps ? train->steps() : kMaxTrainSteps);
  check->InRange<int32_t>("train.warmup_steps", train->warmup_steps(), 0, steps_limit);
  check->Real("train.clip_norm", train->clip_norm(), 0, kMaxClipNorm, false);
  check->Real("train.ema_decay", train->ema_decay(), 0, 1);
  if (train->ema_decay() == 1) check->Fail("train.ema_decay", "1 is not below 1");
  check->InRange<int64_t>("train.checkpoint_every", train->checkpoint_every(), 1, kMaxTrainSteps);
  check->InRange<int32_t>("train.keep_checkpoints", train->keep_checkpoints(), 1,
                          kMaxKeepCheckpoints);
  if (train->has_t0()) check->InRange<int32_t>("train.t0", train->t0(), 0, kMaxT0);
  check->OneOf("train.parametrization", train->parametrization(), {"x0", "sample"});
  check->OneOf("train.schedule", train->schedule(), {"constant", "cosine"});
  check->Real("train.weight_decay", train->weight_decay(), 0, 1);
  check->Real("train.regression.pseudo_huber_weight", regression->pseudo_huber_weight(), 0,
              kMaxLossWeight);
  check->Real("train.regression.pseudo_huber_c", regression->pseudo_huber_c(), 0, kMaxLossWeight,
              false);
  check->Real("train.regression.features_weight", regression->features_weight(), 0, kMaxLossWeight);
  if (regression->features_weight() > 0) {
    check->AbsolutePath("train.regression.features_path", regression->mutable_features_path());
  }
  check->Real("train.gan.weight", gan->weight(), 0, kMaxLossWeight);
  check->InRange<int64_t>("train.gan.start_step", gan->start_step(), 0, steps_limit);
  const bool good_start = gan->start_step() >= 0 && gan->start_step() <= steps_limit;
  check->InRange<int64_t>("train.gan.discriminator_start_step", gan->discriminator_start_step(), 0,
                          good_start ? gan->start_step() : steps_limit);
  check->Real("train.gan.learning_rate", gan->learning_rate(), 0, kMaxLearningRate, false);
  check->Real("train.gan.backbone_learning_rate", gan->backbone_learning_rate(), 0,
              kMaxLearningRate, false);
  check->InRange<int64_t>("train.gan.decay_steps", gan->decay_steps(), 0, steps_limit);
  check->InRange<int32_t>("train.gan.output_scales", gan->output_scales(), 0, kMaxOutputScales);
  check->Real("train.gan.mismatch_weight", gan->mismatch_weight(), 0, kMaxMismatchWeight);
}

void CheckEvaluate(JobSpec* spec, Checker* check) {
  auto* evaluate = spec->mutable_evaluate();
  D2G_DEFAULT(evaluate, grid_columns, 10);
  D2G_DEFAULT(evaluate, timing_repeats, 20);
  check->InRange<int32_t>("evaluate.pictures", evaluate->pictures(), 0, kMaxPictures);
  if (evaluate->pictures() > 0) {
    check->AbsolutePath("evaluate.evaluator_path", evaluate->mutable_evaluator_path());
  }
  check->InRange<int32_t>("evaluate.grid_columns", evaluate->grid_columns(), 1, kMaxGridColumns);
  check->InRange<int32_t>("evaluate.timing_repeats", evaluate->timing_repeats(), 1,
                          kMaxTimingRepeats);
}

// What takes several fields to decide. Called when each alone is good.
void CheckTogether(JobSpec* spec, Checker* check) {
  auto* simulate = spec->mutable_simulate();
  const int64_t triples = simulate->triples();
  const int64_t holdout = MultiplesIn(0, triples, simulate->holdout_every());
  const int64_t training = triples - holdout;
  const int64_t batch = spec->train().global_batch();
  if (training < batch) {
    check->Fail("simulate.triples",
                absl::StrCat(triples, " leave ", training, " triples for training (", holdout,
                             " are held out), fewer than one train.global_batch of ", batch));
    return;
  }
  if (simulate->min_triples() == 0) {
    simulate->set_min_triples(std::min(training, kDefaultStartBatches * batch));
  }
  check->InRange<int64_t>("simulate.min_triples", simulate->min_triples(),
                          std::min(training, kMinStartBatches * batch), triples);
  if (spec->evaluate().pictures() > holdout) {
    check->Fail("evaluate.pictures",
                absl::StrCat(spec->evaluate().pictures(), " is more than the ", holdout,
                             " held-out triples of simulate.triples ", triples,
                             " with simulate.holdout_every ", simulate->holdout_every()));
  }
}

#undef D2G_DEFAULT

}  // namespace

std::vector<FieldViolation> NormalizeSpec(JobSpec* spec) {
  Checker check;
  if (Characters(spec->display_name()) > kMaxDisplayNameCharacters) {
    check.Fail("display_name", absl::StrCat("has ", Characters(spec->display_name()),
                                            " characters; at most ", kMaxDisplayNameCharacters));
  }
  check.NoControls("display_name", spec->display_name());
  check.AbsolutePath("teacher.path", spec->mutable_teacher()->mutable_path());
  if (!spec->teacher().digest().empty()) check.Digest("teacher.digest", spec->teacher().digest());
  if (spec->prompts().digest().empty()) {
    check.Fail("prompts.digest", "is required: upload the prompt list first");
  } else {
    check.Digest("prompts.digest", spec->prompts().digest());
  }
  CheckSimulate(spec, &check);
  CheckTrain(spec, &check);
  CheckEvaluate(spec, &check);
  check.AbsolutePath("output_dir", spec->mutable_output_dir());
  if (spec->output_dir() == "/")
    check.Fail("output_dir", "\"/\" is the root; name a folder below it");
  if (check.ok()) CheckTogether(spec, &check);
  return check.Take();
}

int64_t TrainingThreshold(const JobSpec& spec) {
  const int64_t triples = spec.simulate().triples();
  const int64_t training = triples - MultiplesIn(0, triples, spec.simulate().holdout_every());
  return std::min(training, spec.simulate().min_triples());
}

DatasetRecipe MakeRecipe(const JobSpec& spec, const TeacherFacts& teacher, int64_t prompt_count,
                         int32_t shard_count) {
  DatasetRecipe recipe;
  recipe.set_teacher_digest(teacher.digest);
  recipe.set_prompts_digest(spec.prompts().digest());
  recipe.set_prompt_count(prompt_count);
  *recipe.mutable_solver() = spec.simulate().solver();
  recipe.set_latent_channels(teacher.latent_channels);
  recipe.set_latent_height(teacher.latent_height);
  recipe.set_latent_width(teacher.latent_width);
  recipe.set_storage_dtype(spec.simulate().storage_dtype());
  recipe.set_seed(spec.simulate().seed());
  recipe.set_block_size(spec.simulate().block_size());
  recipe.set_holdout_every(spec.simulate().holdout_every());
  recipe.set_shard_count(shard_count);
  return recipe;
}

}  // namespace d2g::coordinator
