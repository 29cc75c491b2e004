#include "services/spec/normal_spec.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/dataset/index_set.h"
#include "services/spec/field_rules.h"

namespace d2g::spec {

using common::FieldViolation;
using common::v1::RegressionSpec;
using common::v1::TrainSpec;
using coordinator::v1::JobSpec;
using coordinator::v1::SimulateSpec;

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

// Sum of the terms' weights: the fields that end so.
double RegressionWeights(const RegressionSpec& regression) {
  double sum = 0;
  const auto& type = *regression.GetDescriptor();
  for (int i = 0; i < type.field_count(); ++i) {
    const auto& field = *type.field(i);
    if (absl::EndsWith(field.name(), "_weight")) {
      sum += regression.GetReflection()->GetDouble(regression, &field);
    }
  }
  return sum;
}

// Defaults that follow from other fields.
void FillInTrain(TrainSpec* train) {
  if (!train->has_checkpoint_every()) {
    // steps may be any number here.
    const int64_t steps =
        std::clamp<int64_t>(train->steps(), 1, kMostStepsBetween * kDefaultCheckpoints);
    train->set_checkpoint_every((steps + kDefaultCheckpoints - 1) / kDefaultCheckpoints);
  }
  auto* regression = train->mutable_regression();
  if (!regression->has_pseudo_huber_weight()) {
    regression->set_pseudo_huber_weight(RegressionWeights(*regression) > 0 ? 0 : 1);
  }
  auto* gan = train->mutable_gan();
  if (!gan->has_discriminator_start_step()) gan->set_discriminator_start_step(gan->start_step());
  if (!gan->has_learning_rate()) gan->set_learning_rate(train->learning_rate());
  if (!gan->has_backbone_learning_rate()) {
    gan->set_backbone_learning_rate(kBackboneRateShare * gan->learning_rate());
  }
}

void FillInSimulate(SimulateSpec* simulate) {
  if (!simulate->has_task_size()) simulate->set_task_size(simulate->block_size());
  // One spelling, so that equal recipes have equal digests.
  auto* solver = simulate->mutable_solver();
  if (solver->compute_dtype() == common::v1::DTYPE_FP32) solver->clear_compute_dtype();
}

// A field whose limit is another one's value. A bad limit is reported at its own field, and is no
// measure of this one.
void CheckAgainst(FieldChecker* check, const std::string& field, int64_t value, int64_t least,
                  const std::string& limit_field, int64_t limit) {
  if (check->IsGood(field) && check->IsGood(limit_field)) {
    check->InRange(field, value, least, limit);
  }
}

// `at` is what stands before the names of the train spec's fields.
void CheckTrain(const TrainSpec& train, const std::string& at, FieldChecker* check) {
  const std::string steps = at + "steps", batch = at + "global_batch";
  CheckAgainst(check, at + "micro_batch", train.micro_batch(), 0, batch, train.global_batch());
  CheckAgainst(check, at + "min_ranks", train.min_ranks(), 1, batch, train.global_batch());
  if (train.max_ranks() != 0 && check->IsGood(at + "min_ranks")) {
    CheckAgainst(check, at + "max_ranks", train.max_ranks(), train.min_ranks(), batch,
                 train.global_batch());
  }
  CheckAgainst(check, at + "warmup_steps", train.warmup_steps(), 0, steps, train.steps());
  const auto& regression = train.regression();
  if (RegressionWeights(regression) == 0 && check->IsGood(at + "regression.pseudo_huber_weight")) {
    check->Fail(at + "regression.pseudo_huber_weight",
                "is 0, and so are the other weights: G would have no regression term");
  }
  if (regression.features_weight() > 0) {
    check->Required(at + "regression.features_path", regression.features_path());
  }
  const auto& gan = train.gan();
  const std::string start = at + "gan.start_step";
  CheckAgainst(check, start, gan.start_step(), 0, steps, train.steps());
  CheckAgainst(check, at + "gan.discriminator_start_step", gan.discriminator_start_step(), 0, start,
               gan.start_step());
  CheckAgainst(check, at + "gan.decay_steps", gan.decay_steps(), 0, steps, train.steps());
  CheckAgainst(check, at + "gan.ramp_steps", gan.ramp_steps(), 0, steps, train.steps());
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
  FillInSimulate(spec->mutable_simulate());
  FillInTrain(spec->mutable_train());
  if (spec->prompts().digest().empty()) {
    check.Fail("prompts.digest", "is required: upload the prompt list first");
  }
  const auto& simulate = spec->simulate();
  CheckAgainst(&check, "simulate.task_size", simulate.task_size(), 1, "simulate.block_size",
               simulate.block_size());
  CheckTrain(spec->train(), "train.", &check);
  if (spec->evaluate().pictures() > 0) {
    check.Required("evaluate.evaluator_path", spec->evaluate().evaluator_path());
  }
  if (spec->output_dir() == "/") {
    check.Fail("output_dir", "\"/\" is the root; name a folder below it");
  }
  if (check.ok()) CheckTogether(spec, &check);
  return check.Take();
}

std::vector<FieldViolation> NormalizeTrainSpec(TrainSpec* train) {
  FieldChecker check("train");
  check.ApplyRules(train);
  FillInTrain(train);
  CheckTrain(*train, "", &check);
  return check.Take();
}

}  // namespace d2g::spec
