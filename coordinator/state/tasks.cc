#include "coordinator/state/tasks.h"

#include <utility>

namespace d2g::coordinator {

using rows::v1::LeaseRow;

bool Tasks::Renew(const v1::HeartbeatTaskRequest& request, absl::Duration now) {
  const LeaseRow& lease = *leases_.Find(request.lease_id());
  const LeaseTable::Progress& before = *leases_.FindProgress(request.lease_id());
  const bool durable =
      lease.kind() == v1::TASK_KIND_SIMULATE && before.total > 0 && request.done() > before.done;
  if (durable) NoteDone(lease.job(), lease.kind(), lease.worker().node());
  leases_.Renew(request, now);
  return durable;
}

void Tasks::NoteLapse(const LeaseRow& lease, std::string error, absl::Duration now) {
  failures_.NoteLapse(lease, std::move(error));
  trials_.NoteLapse(lease.job(), lease.kind(), now);
}

void Tasks::NoteStoreFailure(const LeaseRow& lease, std::string error, absl::Duration now) {
  const bool wait = lease.kind() != v1::TASK_KIND_SIMULATE;
  failures_.NoteStoreFailure(lease, std::move(error), wait, now);
}

TaskFailures::Counted Tasks::NoteFailure(const LeaseRow& lease, const std::string& message,
                                         std::string error, absl::Duration now) {
  trials_.NoteFailure(lease.job(), lease.kind(), lease.worker().node(), now);
  return failures_.NoteFailure(lease, message, std::move(error), now);
}

void Tasks::Finish(absl::string_view job, int kind) {
  for (const int64_t lease : leases_.OfJob(job, kind)) leases_.Erase(lease);
  failures_.ForgetKind(job, kind);
}

void Tasks::TakeChanges(RowChanges* changes) {
  leases_.TakeChanges(changes);
  failures_.TakeChanges(changes);
}

void Tasks::CopyTo(RowChanges* all) const {
  leases_.CopyTo(all);
  failures_.CopyTo(all);
}

}  // namespace d2g::coordinator
