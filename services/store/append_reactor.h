// One AppendTriples stream on the server.
//
// Back-pressure: the reactor reads ahead of the disk by at most kMaxStreamBufferBytes and then
// stops reading, so that gRPC's flow control holds the client. Batches that wait while one is being
// written are made durable together, with one acknowledgement for all.
//
// Order: open -> Opened; batch -> Ack in the order of sequence. An error ends the stream with its
// status; what was acknowledged stays durable.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "d2g/store/v1/triple_service.grpc.pb.h"
#include "services/common/thread_pool.h"
#include "services/store/triple_store.h"

namespace d2g::store {

// Deletes itself when the call is over. The store, pool and metrics must outlive the server.
class AppendReactor final
    : public grpc::ServerBidiReactor<v1::AppendTriplesRequest, v1::AppendTriplesResponse> {
 public:
  AppendReactor(TripleStore* store, common::ThreadPool* pool, StoreMetrics* metrics);

 private:
  using Batch = v1::AppendTriplesRequest::Batch;

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override { delete this; }

  // Sorts the message just read into the queue.
  absl::Status TakeMessage() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Starts whatever can start: a read, disk work, a write, the end. Called after every event;
  // `work_done` when Work ends.
  void Advance(bool work_done = false) ABSL_LOCKS_EXCLUDED(mutex_);
  // On the pool: makes waiting batches durable until none is left.
  void Work() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status OpenRange(const v1::AppendTriplesRequest::Open& open, std::string* presence) const;

  TripleStore* const store_;
  common::ThreadPool* const pool_;
  StoreMetrics* const metrics_;

  // Owned by gRPC while a read or write is in flight.
  v1::AppendTriplesRequest request_;
  v1::AppendTriplesResponse response_;

  absl::Mutex mutex_;
  std::optional<v1::AppendTriplesRequest::Open> open_ ABSL_GUARDED_BY(mutex_);
  bool range_opened_ ABSL_GUARDED_BY(mutex_) = false;
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool working_ ABSL_GUARDED_BY(mutex_) = false;
  bool client_done_ ABSL_GUARDED_BY(mutex_) = false;
  int starting_ ABSL_GUARDED_BY(mutex_) = 0;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  std::deque<Batch> queue_ ABSL_GUARDED_BY(mutex_);
  int64_t queued_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<v1::AppendTriplesResponse> answers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace d2g::store
