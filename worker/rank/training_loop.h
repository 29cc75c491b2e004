// The training loop of one rank.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "d2g/common/v1/recipe.pb.h"
#include "d2g/common/v1/train_spec.pb.h"
#include "services/common/clock.h"
#include "worker/collective/gradient_bucket.h"
#include "worker/collective/process_group.h"
#include "worker/common/rank_figures.h"
#include "worker/distil/train_step.h"
#include "worker/gang/rank_channel.h"
#include "worker/rank/audit_log.h"
#include "worker/rank/batch_reader.h"
#include "worker/rank/checkpoint_writer.h"
#include "worker/rank/control_channel.h"
#include "worker/rank/micro_batches.h"
#include "worker/rank/text_cache.h"

namespace d2g::rank {

struct TrainingLoopOptions {
  // Normal.
  common::v1::TrainSpec train;
  common::v1::DatasetRecipe recipe;
  at::Device device = at::kCPU;
  // Where training starts or goes on: step, cursor and counts; the fields that do not change during
  // training are copied into every checkpoint.
  CheckpointState state;
  // How long ranks that were told to stop wait for the coordinator to commit a checkpoint, from the
  // end of its write on. A write has no limit here: the agent has one for the whole farewell.
  absl::Duration stop_commit_timeout = absl::Seconds(60);
  // Between two exchanges of ranks that wait, for triples or for a commit: bounds how late one that
  // is told to stop is heard.
  absl::Duration wait_slice = absl::Seconds(2);
  const common::Clock* clock = common::RealClock::Get();
};

// The run fails when more than this share of samples is skipped, once kMinSamplesForShare were
// read.
inline constexpr double kMaxSkippedShare = 0.02;
inline constexpr int64_t kMinSamplesForShare = 1000;
// The run fails after this many steps in a row without finite gradients. No periodic
// checkpoint is taken within such a row, so that the run that starts again meets it again.
inline constexpr int kMaxNotFiniteInARow = 5;

// How a run ended.
enum class TrainingEnd {
  kDone,     // all steps are done and the last checkpoint is committed
  kStopped,  // told to leave; what was done is in a committed checkpoint
};

// What the loop works with; all must outlive it. Only rank 0 has a checkpoint writer.
struct TrainingParts {
  collective::ProcessGroup* group = nullptr;
  BatchReader* reader = nullptr;
  TextCache* texts = nullptr;
  distil::TrainStep* step = nullptr;
  CheckpointWriter* checkpoints = nullptr;
  AuditLog* audit = nullptr;
  gang::RankStatusWriter* status = nullptr;
  // Set by a signal: checkpoint at the next step and leave.
  const std::atomic<bool>* stop = nullptr;
};

// Not thread-safe. Losing the coordinator stops nothing: commits wait beside training, a checkpoint
// that is due meanwhile is taken once the one before is committed, and only the end of training
// waits for the last one.
class TrainingLoop {
 public:
  TrainingLoop(TrainingLoopOptions options, TrainingParts parts);

  // Trains to the end or until told to stop. An error names step and rank.
  absl::StatusOr<TrainingEnd> Run();

 private:
  absl::StatusOr<TrainingEnd> RunSteps();
  absl::StatusOr<ControlResult> NextBatch(std::optional<RankBatch>* batch);
  ControlResult Exchange(const RankBatch* batch);
  absl::Status TrainOn(const RankBatch& batch, int64_t valid);
  void AllReduce(distil::Network network);
  absl::Status CountSamples(const ControlResult& agreed);
  absl::Status SkipNotFinite(const RankBatch& batch,
                             const std::vector<distil::MicroBatch>& micro_batches,
                             const char* what);
  void LogNotFinite(const RankBatch& batch, const std::vector<distil::MicroBatch>& micro_batches);
  absl::Status Checkpoint();
  void WarnOfLateCheckpoint();
  absl::Status LastCheckpoint(bool commit_waits, bool stopping);
  absl::Status WaitForCommit(bool stopping);
  std::string ParameterHash() const;
  void SetFigure(FigureName name, double value) { figures_[name] = value; }
  void Report(const char* phase, const std::map<std::string, double>& metrics = {});
  void Take(const ControlResult& agreed);
  void ReportStep();

  const TrainingLoopOptions options_;
  const TrainingParts parts_;
  const common::Clock* const clock_;
  ControlChannel control_;
  const MicroBatchOptions micro_batches_;
  collective::GradientBuckets generator_gradients_;
  std::optional<collective::GradientBuckets> discriminator_gradients_;

  CheckpointState state_;
  int64_t last_checkpoint_step_;
  // A checkpoint is to be taken as soon as one can.
  bool checkpoint_due_ = false;
  // Step of the last committed checkpoint that this rank knows of, and when it came to be.
  int64_t committed_step_;
  absl::Duration committed_at_;
  int not_finite_in_a_row_ = 0;
  int64_t not_finite_steps_ = 0;
  // Figures of the step before, for the next exchange.
  std::map<std::string, double> pending_metrics_;
  bool pending_not_finite_ = false;
  // Counts work that takes long within a step, without the writer's; see gang::RankReport.
  int64_t progress_ = 0;
  // Latest figures by name (rank_figures.h).
  std::map<std::string, double> figures_;
  absl::Duration allreduce_time_;
  absl::Duration step_time_;
};

}  // namespace d2g::rank
