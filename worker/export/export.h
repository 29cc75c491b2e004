// The export task: a checkpoint becomes a diffusers folder with its lineage.
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "d2g/coordinator/v1/job.pb.h"
#include "d2g/coordinator/v1/task_service.pb.h"
#include "services/common/path_policy.h"
#include "worker/lease/lease_loop.h"
#include "worker/lease/task_context.h"

namespace d2g::exporter {

// Makes work.export_path(): the teacher's folder with the student's averaged U-Net (in the
// teacher's storage dtype), the one-step scheduler and d2g.json (where it came from; no times, so
// that a repeat gives the same bytes). Written and fsynced beside the path in a folder of this
// attempt's own, loaded again and compared with the student, then renamed over it: the path holds
// no folder or a whole one, however many workers try. An earlier export of the same job is replaced
// (a link to one too: it is not followed); what attempts that died a day ago have left beside the
// path is removed.
//
// FAILED_PRECONDITION: the teacher's folder here is not the dataset's; output_dir is another job's;
// the path holds anything but an export of this job, which stays as it is. INVALID_ARGUMENT: the
// checkpoint does not fit.
// CANCELLED when the context is; nothing is left behind then or on other failures.
absl::StatusOr<coordinator::v1::ExportRecord> RunExport(const coordinator::v1::ExportWork& work,
                                                        lease::TaskContext* context);

// Runs export tasks for a lease loop.
class ExportRunner : public lease::TaskRunner {
 public:
  // A job whose paths `paths` does not allow is refused.
  explicit ExportRunner(common::PathPolicy paths = {});

  coordinator::v1::TaskKind kind() const override;
  absl::Status Run(const coordinator::v1::Task& task, lease::TaskContext* context,
                   coordinator::v1::CompleteTaskRequest* result) override;

 private:
  const common::PathPolicy paths_;
};

}  // namespace d2g::exporter
