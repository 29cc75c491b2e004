#include "services/store/verify_reactor.h"

#include <utility>

#include "services/common/grpc_status.h"
#include "services/common/status_macros.h"
#include "services/store/dataset_key.h"

namespace d2g::store {

using v1::VerifyDatasetResponse;

VerifyReactor::VerifyReactor(const TripleStore* store, common::ThreadPool* pool, v1::DatasetKey key)
    : store_(store), key_(std::move(key)) {
  if (!pool->TrySchedule([this] { Run(); })) {
    Finish(common::ToGrpcStatus(
        absl::UnavailableError("the shard is busy: other verifications are running")));
  }
}

void VerifyReactor::OnWriteDone(bool ok) {
  absl::MutexLock lock(&mutex_);
  writing_ = false;
  if (!ok) cancelled_ = true;
}

void VerifyReactor::OnCancel() {
  absl::MutexLock lock(&mutex_);
  cancelled_ = true;
}

void VerifyReactor::Run() { Finish(common::ToGrpcStatus(Verify())); }

absl::Status VerifyReactor::Verify() {
  D2G_RETURN_IF_ERROR(CheckKey(key_, *store_));
  const auto send_finding = [this](int64_t index, const std::string& reason) {
    VerifyDatasetResponse response;
    response.mutable_finding()->set_index(index);
    response.mutable_finding()->set_reason(reason);
    return Send(response);
  };
  const auto go_on = [this] {
    absl::MutexLock lock(&mutex_);
    return !cancelled_;
  };
  VerifyDatasetResponse last;
  D2G_ASSIGN_OR_RETURN(*last.mutable_summary(),
                       store_->Verify(key_.dataset(), send_finding, go_on));
  return Send(last) ? absl::OkStatus() : absl::CancelledError("cancelled");
}

bool VerifyReactor::Send(const VerifyDatasetResponse& response) {
  const auto written = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return !writing_; };
  {
    absl::MutexLock lock(&mutex_);
    if (cancelled_) return false;
    writing_ = true;
    response_ = response;
  }
  StartWrite(&response_);
  absl::MutexLock lock(&mutex_, absl::Condition(&written));
  return !cancelled_;
}

}  // namespace d2g::store
