// One VerifyDataset stream on the server.
#pragma once

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "d2g/store/v1/triple_service.grpc.pb.h"
#include "services/common/thread_pool.h"
#include "services/store/triple_store.h"

namespace d2g::store {

// Deletes itself when the call is over. The pool's thread that verifies waits for the client to
// take each finding, and stops when the call is cancelled.
class VerifyReactor final : public grpc::ServerWriteReactor<v1::VerifyDatasetResponse> {
 public:
  // Store and pool must outlive the server.
  VerifyReactor(const TripleStore* store, common::ThreadPool* pool, v1::DatasetKey key);

 private:
  ~VerifyReactor() override = default;

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override { delete this; }

  // On the pool.
  void Run();
  absl::Status Verify();
  // False when the call is cancelled.
  bool Send(const v1::VerifyDatasetResponse& response) ABSL_LOCKS_EXCLUDED(mutex_);

  const TripleStore* const store_;
  const v1::DatasetKey key_;
  // Owned by gRPC while a write is in flight.
  v1::VerifyDatasetResponse response_;

  absl::Mutex mutex_;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace d2g::store
