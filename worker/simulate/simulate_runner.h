// Runs simulate tasks.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "coordinator/client/client.h"
#include "d2g/coordinator/v1/task_service.pb.h"
#include "services/common/path_policy.h"
#include "services/store/client/triple_client.h"
#include "worker/lease/lease_loop.h"
#include "worker/simulate/batch_sizer.h"
#include "worker/simulate/batch_writer.h"
#include "worker/simulate/prompt_cache.h"
#include "worker/simulate/simulate_metrics.h"
#include "worker/simulate/solve_batch.h"
#include "worker/simulate/teacher_cache.h"

namespace d2g::simulate {

struct SimulateRunnerOptions {
  // Recorded with the seals.
  store::v1::Producer producer;
  at::Device device = at::kCPU;
  // Teachers are read where it allows.
  common::PathPolicy paths;
  // How long a shard or the coordinator is tried to reach within a task. A shard is given up before
  // the lease would lapse: see lease::ShardPatience.
  absl::Duration patience = absl::Minutes(10);
  // A worker that is told to stop waits this long for the store to take the batch in hand, and as
  // long for what it has to be durable.
  absl::Duration flush_patience = absl::Seconds(5);
};

// Simulates the indices of a range that its shard does not have, in batches that the store takes
// while the next one computes, and seals the range. One task at a time.
class SimulateRunner final : public lease::TaskRunner {
 public:
  // `client` and `metrics` are not owned and outlive the runner.
  SimulateRunner(SimulateRunnerOptions options, coordinator::CoordinatorClient* client,
                 common::Metrics* metrics);

  coordinator::v1::TaskKind kind() const override { return coordinator::v1::TASK_KIND_SIMULATE; }
  absl::Status Run(const coordinator::v1::Task& task, lease::TaskContext* context,
                   coordinator::v1::CompleteTaskRequest* result) override;

 private:
  // What a task needs besides the range.
  struct Inputs {
    std::shared_ptr<const Teacher> teacher;
    std::shared_ptr<const common::PromptLines> prompts;
  };

  // The sizer of this work's teacher, guidance, dtype and asked-for size.
  BatchSizer& SizerOf(const coordinator::v1::SimulateWork& work);
  absl::StatusOr<Inputs> Load(const coordinator::v1::SimulateWork& work,
                              lease::TaskContext* context);
  // Solves and appends what is missing; returns once all of it is durable. A shard that does not
  // answer is given up after `patience`. `writer` writes to the session.
  absl::Status FillRange(const coordinator::v1::SimulateWork& work, const Inputs& inputs,
                         absl::Duration patience, lease::TaskContext* context,
                         store::AppendSession* session, BatchWriter* writer);

  const SimulateRunnerOptions options_;
  SimulateMetrics metrics_;
  TeacherCache teachers_;
  PromptCache prompts_;
  // What was learned, and of which work: tasks of one job follow each other.
  std::optional<BatchSizer> sizer_;
  std::string sizer_key_;
};

}  // namespace d2g::simulate
