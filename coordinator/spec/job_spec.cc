#include "coordinator/spec/job_spec.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "services/common/utf8.h"
#include "services/dataset/interval_set.h"
#include "services/spec/field_rules.h"

namespace d2g::coordinator {

using d2g::common::FieldViolation;
using d2g::common::v1::DatasetRecipe;
using d2g::coordinator::v1::JobSpec;
using d2g::spec::FieldChecker;

namespace {

// Share of D's learning rate that its part from the teacher gets when the spec does not say.
constexpr double kBackboneRateShare = 0.1;
// Global batches that training waits for when the spec does not say, and the least it may say.
constexpr int64_t kDefaultStartBatches = 100;
constexpr int64_t kMinStartBatches = 10;
// Without a word of it a run has this many checkpoints, and more when they would lie further apart
// than kMostStepsBetween.
constexpr int64_t kDefaultCheckpoints = 10;
constexpr int64_t kMostStepsBetween = 500;

// Defaults that follow from other fields.
void FillIn(JobSpec* spec) {
  auto* simulate = spec->mutable_simulate();
  if (!simulate->has_task_size()) simulate->set_task_size(simulate->block_size());
  // One spelling, so that equal recipes have equal digests.
  auto* solver = simulate->mutable_solver();
  if (solver->compute_dtype() == d2g::common::v1::DTYPE_FP32) solver->clear_compute_dtype();

  auto* train = spec->mutable_train();
  if (!train->has_checkpoint_every()) {
    const int64_t share = (train->steps() + kDefaultCheckpoints - 1) / kDefaultCheckpoints;
    train->set_checkpoint_every(std::clamp<int64_t>(share, 1, kMostStepsBetween));
  }
  auto* regression = train->mutable_regression();
  if (!regression->has_pseudo_huber_weight()) {
    regression->set_pseudo_huber_weight(regression->features_weight() == 0 ? 1 : 0);
  }
  auto* gan = train->mutable_gan();
  if (!gan->has_discriminator_start_step()) gan->set_discriminator_start_step(gan->start_step());
  if (!gan->has_learning_rate()) gan->set_learning_rate(train->learning_rate());
  if (!gan->has_backbone_learning_rate()) {
    gan->set_backbone_learning_rate(kBackboneRateShare * gan->learning_rate());
  }
}

// A field whose limit is another one's value. Where that other one is bad, so that one mistake is
// reported once, only the field's own rule counts.
void CheckAgainst(FieldChecker* check, std::string_view field, int64_t value, int64_t least,
                  std::string_view limit_field, int64_t limit) {
  if (check->IsGood(field) && check->IsGood(limit_field)) {
    check->InRange(field, value, least, limit);
  }
}

void CheckTrain(const v1::TrainSpec& train, FieldChecker* check) {
  const int64_t batch = train.global_batch();
  CheckAgainst(check, "train.micro_batch", train.micro_batch(), 0, "train.global_batch", batch);
  CheckAgainst(check, "train.min_ranks", train.min_ranks(), 1, "train.global_batch", batch);
  if (train.max_ranks() != 0 && check->IsGood("train.min_ranks")) {
    CheckAgainst(check, "train.max_ranks", train.max_ranks(), train.min_ranks(),
                 "train.global_batch", batch);
  }
  CheckAgainst(check, "train.warmup_steps", train.warmup_steps(), 0, "train.steps", train.steps());
  const auto& regression = train.regression();
  if (regression.pseudo_huber_weight() == 0 && regression.features_weight() == 0 &&
      check->IsGood("train.regression.pseudo_huber_weight")) {
    check->Fail("train.regression.pseudo_huber_weight",
                "is 0, and so is features_weight: G would have no regression term");
  }
  if (regression.features_weight() > 0) {
    check->Required("train.regression.features_path", regression.features_path());
  }
  const auto& gan = train.gan();
  CheckAgainst(check, "train.gan.start_step", gan.start_step(), 0, "train.steps", train.steps());
  CheckAgainst(check, "train.gan.discriminator_start_step", gan.discriminator_start_step(), 0,
               "train.gan.start_step", gan.start_step());
  CheckAgainst(check, "train.gan.decay_steps", gan.decay_steps(), 0, "train.steps", train.steps());
}

// What takes several fields to decide. Called when each alone is good.
void CheckTogether(JobSpec* spec, FieldChecker* check) {
  auto* simulate = spec->mutable_simulate();
  const int64_t triples = simulate->triples();
  const int64_t holdout = dataset::MultiplesIn(0, triples, simulate->holdout_every());
  const int64_t training = triples - holdout;
  const int64_t batch = spec->train().global_batch();
  if (training < batch) {
    check->Fail("simulate.triples",
                absl::StrCat(triples, " leave ", training, " triples for training (", holdout,
                             " are held out), fewer than one train.global_batch of ", batch));
    return;
  }
  if (!simulate->has_min_triples()) {
    simulate->set_min_triples(std::min(training, kDefaultStartBatches * batch));
  }
  check->InRange("simulate.min_triples", simulate->min_triples(),
                 std::min(training, kMinStartBatches * batch), triples);
  if (spec->evaluate().pictures() > holdout) {
    check->Fail("evaluate.pictures",
                absl::StrCat(spec->evaluate().pictures(), " is more than the ", holdout,
                             " held-out triples of simulate.triples ", triples,
                             " with simulate.holdout_every ", simulate->holdout_every()));
  }
}

}  // namespace

std::vector<FieldViolation> NormalizeSpec(JobSpec* spec) {
  FieldChecker check("spec");
  check.ApplyRules(spec);
  FillIn(spec);
  if (spec->prompts().digest().empty()) {
    check.Fail("prompts.digest", "is required: upload the prompt list first");
  }
  const auto& simulate = spec->simulate();
  CheckAgainst(&check, "simulate.task_size", simulate.task_size(), 1, "simulate.block_size",
               simulate.block_size());
  CheckTrain(spec->train(), &check);
  if (spec->evaluate().pictures() > 0) {
    check.Required("evaluate.evaluator_path", spec->evaluate().evaluator_path());
  }
  if (spec->output_dir() == "/") {
    check.Fail("output_dir", "\"/\" is the root; name a folder below it");
  }
  if (check.ok()) CheckTogether(spec, &check);
  return check.Take();
}

int64_t TrainingThreshold(const JobSpec& spec) {
  const int64_t triples = spec.simulate().triples();
  const int64_t training =
      triples - dataset::MultiplesIn(0, triples, spec.simulate().holdout_every());
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
