// Prompt lists going in and out, in chunks.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "coordinator/rpc/service_context.h"
#include "d2g/coordinator/v1/job_service.pb.h"
#include "services/common/clock.h"

namespace d2g::coordinator {

class PromptUploads;

// Takes a list, checks it (common::PromptListChecker) and stores it under its digest: blobs first,
// the row that makes them a list last. Keeps it in memory once until then. A call that the client
// gave up stores nothing. Deletes itself when the call is over.
class PromptUpload final : public grpc::ServerReadReactor<v1::UploadPromptListRequest> {
 public:
  // `uploads` counts it until it is deleted.
  PromptUpload(const ServiceContext& services, PromptUploads* uploads,
               grpc::CallbackServerContext* context, v1::PromptList* response);
  ~PromptUpload() override;

  void OnReadDone(bool ok) override;
  void OnDone() override { delete this; }

 private:
  // Blocks on the disk.
  void Store();
  // Checks what came and gives its memory back piece by piece: the list as it is stored, each line
  // ended by \n, cut every common::kPromptChunkBytes. Fills in the response and the row.
  absl::StatusOr<std::vector<std::string>> Check(rows::v1::PromptListRow* row);

  const ServiceContext services_;
  PromptUploads* const uploads_;
  grpc::CallbackServerContext* const context_;
  v1::PromptList* const response_;
  v1::UploadPromptListRequest request_;
  // As they came, small chunks joined.
  std::deque<std::string> received_;
  int64_t bytes_ = 0;
};

// The uploads that run: not more than kMaxPromptUploads, each for kMaxUploadTime. Thread-safe.
class PromptUploads {
 public:
  // Neither is owned; `services` is filled in before the first Accept.
  PromptUploads(const ServiceContext* services, const common::Clock* clock)
      : services_(services), clock_(clock) {}

  // Takes an upload, or answers RESOURCE_EXHAUSTED at the limit.
  grpc::ServerReadReactor<v1::UploadPromptListRequest>* Accept(grpc::CallbackServerContext* context,
                                                               v1::PromptList* response)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // To be called every kTick: cancels those that are out of time.
  void CancelOverdue() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  friend class PromptUpload;

  void Remove(const PromptUpload* upload) ABSL_LOCKS_EXCLUDED(mutex_);

  struct Running {
    grpc::CallbackServerContext* context = nullptr;
    absl::Duration started;
  };

  const ServiceContext* const services_;
  const common::Clock* const clock_;
  absl::Mutex mutex_;
  // The contexts are valid as long as their uploads are here.
  absl::flat_hash_map<const PromptUpload*, Running> running_ ABSL_GUARDED_BY(mutex_);
};

// The row of a list whose blobs are all there. NOT_FOUND or DATA_LOSS when they are not, or are not
// what the digest says. Blocks on the disk.
absl::StatusOr<rows::v1::PromptListRow> RemakePromptListRow(const RowStore& store,
                                                            absl::string_view digest);

// Sends a list chunk by chunk. Deletes itself when the call is over.
class PromptDownload final : public grpc::ServerWriteReactor<v1::GetPromptListResponse> {
 public:
  PromptDownload(const ServiceContext& services, std::string digest);

  void OnWriteDone(bool ok) override;
  void OnDone() override { delete this; }

 private:
  void SendNext();

  const ServiceContext services_;
  const std::string digest_;
  int32_t chunks_ = 0;
  int32_t next_ = 0;
  v1::GetPromptListResponse response_;
};

}  // namespace d2g::coordinator
