#include "worker/rank/training_loop.h"

#include <utility>

#include <ATen/ATen.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/common/digest.h"
#include "services/common/log.h"
#include "services/common/status_macros.h"
#include "worker/common/torch_status.h"
#include "worker/rank/rank_failure.h"

namespace d2g::rank {
namespace {

uint64_t HashOf(const at::Tensor& flat) {
  const at::Tensor bytes = flat.to(at::kCPU).contiguous();
  return common::Xxh3(absl::string_view(static_cast<const char*>(bytes.data_ptr()),
                                        static_cast<size_t>(bytes.nbytes())));
}

}  // namespace

TrainingLoop::TrainingLoop(TrainingLoopOptions options, TrainingParts parts)
    : options_(std::move(options)),
      parts_(parts),
      clock_(options_.clock),
      control_(parts.group, parts.step->MetricNames()),
      micro_batches_{.train = options_.train, .recipe = options_.recipe, .device = options_.device},
      generator_gradients_(parts.step->generator().gradients()),
      state_(options_.state),
      last_checkpoint_step_(options_.state.step),
      committed_step_(options_.state.step),
      committed_at_(clock_->SteadyNow()) {
  if (parts_.step->has_discriminator()) {
    discriminator_gradients_.emplace(parts_.step->discriminator().gradients());
  }
}

absl::StatusOr<TrainingEnd> TrainingLoop::Run() {
  absl::StatusOr<TrainingEnd> end = CatchPeersAndTorch([this] { return RunSteps(); });
  if (end.ok()) return end;
  return common::Annotate(
      end.status(), absl::StrCat("rank ", parts_.group->rank(), " in step ", state_.step + 1));
}

absl::StatusOr<TrainingEnd> TrainingLoop::RunSteps() {
  while (state_.step < options_.train.steps()) {
    const absl::Duration start = clock_->SteadyNow();
    std::optional<RankBatch> batch;
    D2G_ASSIGN_OR_RETURN(const ControlResult agreed, NextBatch(&batch));
    ReportStep();
    if (agreed.stop) {
      D2G_RETURN_IF_ERROR(LastCheckpoint(agreed.commit_waits, /*stopping=*/true));
      return TrainingEnd::kStopped;
    }
    D2G_RETURN_IF_ERROR(CountSamples(agreed));
    D2G_RETURN_IF_ERROR(TrainOn(*batch, agreed.valid));
    state_.step += 1;
    state_.cursor = batch->next;
    D2G_RETURN_IF_ERROR(parts_.audit->Append(state_.step, *batch));
    if (state_.step % options_.train.checkpoint_every() == 0) {
      checkpoint_due_ = true;
      WarnOfLateCheckpoint();
    }
    if (state_.step == options_.train.steps()) {
      D2G_RETURN_IF_ERROR(LastCheckpoint(agreed.commit_waits, /*stopping=*/false));
    } else if (checkpoint_due_ && !agreed.commit_waits && not_finite_in_a_row_ == 0) {
      D2G_RETURN_IF_ERROR(Checkpoint());
    }
    const absl::Duration took = clock_->SteadyNow() - start;
    step_time_ += took;
    SetFigure("step_seconds", absl::ToDoubleSeconds(took));
  }
  Report(gang::kPhaseDone);
  return TrainingEnd::kDone;
}

// Every rank's part of the next batch, or word that some rank was told to stop. Ranks exchange
// while any of them waits: one that is told to stop is then heard by those that still wait for
// triples.
absl::StatusOr<ControlResult> TrainingLoop::NextBatch(std::optional<RankBatch>* batch) {
  while (true) {
    // Waiting for data, and then for the ranks that wait for theirs, is no hang of this rank.
    Report(gang::kPhaseDataWait);
    if (!batch->has_value() && !parts_.stop->load() &&
        parts_.reader->WaitUntilReady(options_.wait_slice)) {
      D2G_ASSIGN_OR_RETURN(*batch, parts_.reader->Next());
    }
    if (parts_.checkpoints != nullptr) D2G_RETURN_IF_ERROR(parts_.checkpoints->status());
    const ControlResult agreed = Exchange(batch->has_value() ? &**batch : nullptr);
    Take(agreed);
    if (agreed.stop || !agreed.data_waits) return agreed;
  }
}

ControlResult TrainingLoop::Exchange(const RankBatch* batch) {
  ControlMessage message;
  message.stop = parts_.stop->load();
  message.data_waits = batch == nullptr;
  if (batch != nullptr) {
    message.skipped = static_cast<int64_t>(batch->skipped.size());
    message.valid = static_cast<int64_t>(batch->samples.size()) - message.skipped;
  }
  message.not_finite = std::exchange(pending_not_finite_, false);
  message.commit_waits = parts_.checkpoints != nullptr &&
                         parts_.checkpoints->stage() != CheckpointWriter::Stage::kIdle;
  message.metrics = std::exchange(pending_metrics_, {});
  return control_.Exchange(message);
}

absl::Status TrainingLoop::CountSamples(const ControlResult& agreed) {
  state_.samples += agreed.valid;
  state_.skipped += agreed.skipped;
  const double read = static_cast<double>(state_.samples + state_.skipped);
  if (read >= kMinSamplesForShare &&
      static_cast<double>(state_.skipped) > kMaxSkippedShare * read) {
    return absl::DataLossError(absl::StrCat(state_.skipped, " of ", state_.samples + state_.skipped,
                                            " samples could not be used, more than a share of ",
                                            kMaxSkippedShare));
  }
  return absl::OkStatus();
}

absl::Status TrainingLoop::TrainOn(const RankBatch& batch, int64_t valid) {
  if (valid == 0) {
    common::LogWarn("skipped a step: no sample of its batch can be used",
                    {{"step", state_.step + 1}});
    return absl::OkStatus();
  }
  distil::TrainStep& step = *parts_.step;
  const std::vector<distil::MicroBatch> micro_batches =
      MakeMicroBatches(batch, micro_batches_, step.TrainsDiscriminator(state_.step), parts_.texts);
  const distil::StepResult result =
      step.Run(state_.step, static_cast<double>(valid), micro_batches,
               [this](distil::Network network) { AllReduce(network); });
  pending_metrics_ = step.Metrics();
  if (result.discriminator) SetFigure("grad_norm_d", result.discriminator->gradient_norm);
  if (!result.generator) {
    return SkipNotFinite(batch, micro_batches,
                         "D's gradient is not finite: the step changed nothing");
  }
  SetFigure("grad_norm_g", result.generator->gradient_norm);
  SetFigure("learning_rate", result.generator->learning_rate);
  if (result.generator->skipped) {
    return SkipNotFinite(batch, micro_batches,
                         result.discriminator
                             ? "G's gradient is not finite: the step changed D alone"
                             : "G's gradient is not finite: the step changed nothing");
  }
  not_finite_in_a_row_ = 0;
  return absl::OkStatus();
}

void TrainingLoop::AllReduce(distil::Network network) {
  const absl::Duration start = clock_->SteadyNow();
  const collective::GradientBuckets& gradients =
      network == distil::Network::kGenerator ? generator_gradients_ : *discriminator_gradients_;
  gradients.AllReduceSum(*parts_.group);
  allreduce_time_ += clock_->SteadyNow() - start;
}

// Every rank sees the same reduced gradient, so all skip and all fail in the same step.
absl::Status TrainingLoop::SkipNotFinite(const RankBatch& batch,
                                         const std::vector<distil::MicroBatch>& micro_batches,
                                         const char* what) {
  pending_not_finite_ = true;
  std::vector<int64_t> indices;
  for (const RankSample& sample : batch.samples) indices.push_back(sample.index);
  common::LogError(what, {{"step", state_.step + 1}, {"indices", absl::StrJoin(indices, ",")}});
  if (++not_finite_in_a_row_ == 1) LogNotFinite(batch, micro_batches);
  if (not_finite_in_a_row_ < kMaxNotFiniteInARow) return absl::OkStatus();
  return NotFiniteError(
      absl::StrCat("gradients were not finite in ", kMaxNotFiniteInARow, " steps in a row"));
}

// Looks at each triple of this rank by itself; the other ranks need not do the same.
void TrainingLoop::LogNotFinite(const RankBatch& batch,
                                const std::vector<distil::MicroBatch>& micro_batches) {
  const absl::Status searched = CatchTorch([&] {
    size_t sample = 0;
    for (const distil::MicroBatch& micro_batch : micro_batches) {
      for (int64_t row = 0; row < micro_batch.z.size(0); ++row, ++sample) {
        for (const std::string& term : parts_.step->FindNonFinite(state_.step, micro_batch, row)) {
          common::LogError(
              "a triple's numbers are not finite",
              {{"step", state_.step + 1}, {"index", batch.samples[sample].index}, {"term", term}});
        }
        ++progress_;
        Report(gang::kPhaseStep);
      }
    }
  });
  if (!searched.ok()) {
    common::LogWarn("could not find the triples that are not finite", {{"error", searched}});
  }
}

std::string TrainingLoop::ParameterHash() const {
  uint64_t hash = HashOf(parts_.step->generator().values());
  if (parts_.step->has_discriminator()) {
    // An odd multiplier keeps the order: G and D swapped give another hash.
    hash = hash * 0x9E3779B97F4A7C15 + HashOf(parts_.step->discriminator().values());
  }
  return absl::StrCat(absl::Hex(hash, absl::kZeroPad16));
}

absl::Status TrainingLoop::Checkpoint() {
  if (state_.step == last_checkpoint_step_) return absl::OkStatus();
  const absl::Duration start = clock_->SteadyNow();
  Report(gang::kPhaseCheckpoint);
  // Before the exchange: rank 0 commits once it knows that every rank came this far.
  D2G_RETURN_IF_ERROR(parts_.audit->Sync());
  state_.parameter_hash = ParameterHash();
  ControlMessage message;
  message.parameter_hash = std::stoull(state_.parameter_hash, nullptr, 16);
  message.not_finite = std::exchange(pending_not_finite_, false);
  message.metrics = std::exchange(pending_metrics_, {});
  const ControlResult agreed = control_.Exchange(message);
  if (!agreed.hashes_agree) {
    return absl::InternalError(absl::StrCat("ranks hold different parameters at step ", state_.step,
                                            ": this rank's hash is ", state_.parameter_hash,
                                            "; no checkpoint was written"));
  }
  if (parts_.checkpoints != nullptr) {
    D2G_RETURN_IF_ERROR(parts_.checkpoints->Start(state_, parts_.step->State()));
  }
  last_checkpoint_step_ = state_.step;
  checkpoint_due_ = false;
  SetFigure("checkpoint_seconds", absl::ToDoubleSeconds(clock_->SteadyNow() - start));
  Take(agreed);
  ReportStep();
  return absl::OkStatus();
}

// Said once a period for as long as it lasts.
void TrainingLoop::WarnOfLateCheckpoint() {
  if (parts_.checkpoints == nullptr) return;
  const CheckpointWriter::Stage stage = parts_.checkpoints->stage();
  if (stage == CheckpointWriter::Stage::kIdle) return;
  common::LogWarn(stage == CheckpointWriter::Stage::kWriting
                      ? "a checkpoint is due while the one before is still being written"
                      : "a checkpoint is due while the one before waits to be committed",
                  {{"step", state_.step},
                   {"last_committed_step", committed_step_},
                   {"seconds_since", absl::ToInt64Seconds(clock_->SteadyNow() - committed_at_)}});
}

// Leaves nothing uncommitted.
absl::Status TrainingLoop::LastCheckpoint(bool commit_waits, bool stopping) {
  if (commit_waits) D2G_RETURN_IF_ERROR(WaitForCommit(stopping));
  D2G_RETURN_IF_ERROR(Checkpoint());
  return WaitForCommit(stopping);
}

// Rank 0 waits for its writer, the others for rank 0, in short exchanges: a collective has a limit,
// the coordinator's absence has none unless the ranks are told to stop.
absl::Status TrainingLoop::WaitForCommit(bool stopping) {
  // Rank 0's, once the coordinator alone is waited for.
  absl::Duration deadline = absl::InfiniteDuration();
  while (true) {
    ControlMessage message;
    message.stop = parts_.stop->load();
    if (parts_.checkpoints == nullptr) {
      Report(gang::kPhaseCommitWait);
    } else {
      const bool writing = parts_.checkpoints->stage() == CheckpointWriter::Stage::kWriting;
      // A write that makes no progress is a hang, as the coordinator's absence is not.
      Report(writing ? gang::kPhaseCheckpoint : gang::kPhaseCommitWait);
      if (stopping && !writing) {
        deadline = std::min(deadline, clock_->SteadyNow() + options_.stop_commit_timeout);
      }
      const absl::Duration left = deadline - clock_->SteadyNow();
      const absl::Status status = parts_.checkpoints->Wait(std::min(left, options_.wait_slice));
      message.commit_waits = absl::IsDeadlineExceeded(status);
      if (!message.commit_waits) D2G_RETURN_IF_ERROR(status);
      // The others notice that rank 0 left.
      if (clock_->SteadyNow() >= deadline && message.commit_waits) return status;
    }
    const ControlResult agreed = control_.Exchange(message);
    if (!agreed.commit_waits) return absl::OkStatus();
    stopping |= agreed.stop;
  }
}

void TrainingLoop::Report(const char* phase, const std::map<std::string, double>& metrics) {
  gang::RankReport report;
  report.phase = phase;
  report.step = state_.step;
  report.progress =
      progress_ + (parts_.checkpoints == nullptr ? 0 : parts_.checkpoints->progress());
  report.metrics = metrics;
  const absl::Status written = parts_.status->Write(report);
  if (!written.ok()) common::LogWarn("could not report to the agent", {{"error", written}});
}

void TrainingLoop::Take(const ControlResult& agreed) {
  for (const auto& [name, value] : agreed.metrics) figures_[name] = value;
  not_finite_steps_ += agreed.not_finite;
}

void TrainingLoop::ReportStep() {
  if (parts_.checkpoints != nullptr) {
    const int64_t committed = parts_.checkpoints->committed_step().value_or(committed_step_);
    if (committed != committed_step_) committed_at_ = clock_->SteadyNow();
    committed_step_ = committed;
    SetFigure("uncommitted_steps", static_cast<double>(state_.step - committed_step_));
  }
  SetFigure("not_finite_total", static_cast<double>(not_finite_steps_));
  SetFigure("epoch", static_cast<double>(state_.cursor.epoch));
  SetFigure("samples_total", static_cast<double>(state_.samples));
  SetFigure("skipped_total", static_cast<double>(state_.skipped));
  SetFigure("data_wait_seconds_total", absl::ToDoubleSeconds(parts_.reader->wait_time()));
  SetFigure("step_seconds_total", absl::ToDoubleSeconds(step_time_));
  SetFigure("allreduce_seconds_total", absl::ToDoubleSeconds(allreduce_time_));
  Report(gang::kPhaseStep, figures_);
}

}  // namespace d2g::rank
