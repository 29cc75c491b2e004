// The evaluation task: how good a checkpoint's student is, in figures and in a picture.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/notification.h"
#include "coordinator/client/client.h"
#include "d2g/coordinator/v1/job.pb.h"
#include "d2g/coordinator/v1/task_service.pb.h"
#include "services/common/path_policy.h"
#include "worker/evaluate/held_out_reader.h"
#include "worker/lease/lease_loop.h"
#include "worker/lease/task_context.h"

namespace d2g::evaluate {

// Compares, on held-out noise and prompts, the teacher's full solution as stored ("teacher_N" for N
// solver steps), the teacher run for one step with the dataset's guidance as a user would run it
// ("teacher_1"; left out where N is 1) and the checkpoint's averaged student ("student_1"): quality
// by the frozen evaluator, distance to the solution, time per picture at batch 1; and how well the
// checkpoint's discriminator tells the student from the solutions. Writes report.json and grid.png
// to output_dir/evaluation, each atomically, after claiming output_dir for the job. `device` as
// LibTorch names it.
//
// FAILED_PRECONDITION: output_dir is another job's, or holds files that no job made.
// INVALID_ARGUMENT: the teacher's folder is not the dataset's, or a file does not fit. CANCELLED
// when the context is.
absl::StatusOr<coordinator::v1::EvaluationReport> RunEvaluate(
    const coordinator::v1::EvaluateWork& work, const std::vector<std::string>& prompts,
    const ReadTriples& read, const std::string& device, lease::TaskContext* context);

// Runs evaluation tasks for a lease loop.
class EvaluateRunner : public lease::TaskRunner {
 public:
  // `coordinator` is not owned; prompt lists are fetched through it. `device` as for RunEvaluate.
  // A job whose paths `paths` does not allow is refused.
  EvaluateRunner(coordinator::CoordinatorClient* coordinator, std::string device,
                 common::PathPolicy paths = {});

  coordinator::v1::TaskKind kind() const override;
  absl::Status Run(const coordinator::v1::Task& task, lease::TaskContext* context,
                   coordinator::v1::CompleteTaskRequest* result) override;

 private:
  coordinator::CoordinatorClient* const coordinator_;
  const std::string device_;
  const common::PathPolicy paths_;
};

}  // namespace d2g::evaluate
