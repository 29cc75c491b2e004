// Prompt lists going in and out, in chunks.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "coordinator/service_context.h"
#include "d2g/coordinator/v1/job_service.pb.h"

namespace d2g::coordinator {

// Takes a list, checks it (common::ParsePromptList) and stores it under its digest: blobs first,
// the row that makes them a list last. A call that the client gave up stores nothing. Deletes
// itself when the call is over.
class PromptUpload final : public grpc::ServerReadReactor<v1::UploadPromptListRequest> {
 public:
  PromptUpload(const ServiceContext& services, grpc::CallbackServerContext* context,
               v1::PromptList* response);

  void OnReadDone(bool ok) override;
  void OnDone() override { delete this; }

 private:
  // Blocks on the disk.
  void Store();

  const ServiceContext services_;
  grpc::CallbackServerContext* const context_;
  v1::PromptList* const response_;
  v1::UploadPromptListRequest request_;
  std::string text_;
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
