#include "coordinator/rpc/prompt_streams.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "coordinator/rows/limits.h"
#include "coordinator/rows/row_keys.h"
#include "services/common/grpc_status.h"
#include "services/common/prompts.h"
#include "services/common/status_macros.h"
#include "services/common/utf8.h"

namespace d2g::coordinator {
namespace {

std::string BlobKey(absl::string_view digest, int64_t chunk) { return ChildId(digest, chunk); }

grpc::Status Busy() {
  return grpc::Status(grpc::StatusCode::UNAVAILABLE,
                      "too many file operations are waiting; try again");
}

// An upload that is not taken.
class RefusedUpload final : public grpc::ServerReadReactor<v1::UploadPromptListRequest> {
 public:
  RefusedUpload() {
    Finish(grpc::Status(
        grpc::StatusCode::RESOURCE_EXHAUSTED,
        absl::StrCat(kMaxPromptUploads, " prompt lists are being uploaded, the limit; try again")));
  }
  void OnDone() override { delete this; }
};

}  // namespace

PromptUpload::PromptUpload(const ServiceContext& services, PromptUploads* uploads,
                           grpc::CallbackServerContext* context, v1::PromptList* response)
    : services_(services), uploads_(uploads), context_(context), response_(response) {
  // Tells a client that waits for it that the upload is taken.
  StartSendInitialMetadata();
  StartRead(&request_);
}

PromptUpload::~PromptUpload() { uploads_->Remove(this); }

void PromptUpload::OnReadDone(bool ok) {
  if (!ok) {
    if (!services_.pool->TrySchedule([this] { Store(); })) Finish(Busy());
    return;
  }
  std::string& chunk = *request_.mutable_chunk();
  bytes_ += static_cast<int64_t>(chunk.size());
  if (bytes_ > common::kMaxPromptListBytes) {
    Finish(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT,
                        absl::StrCat("prompt list is larger than ", common::kMaxPromptListBytes,
                                     " bytes, the most that is taken")));
    return;
  }
  // A string of its own costs more than a small chunk holds, and one for all would be copied as it
  // grows.
  if (received_.empty() || received_.back().size() + chunk.size() > common::kPromptChunkBytes) {
    received_.emplace_back().reserve(std::max<size_t>(common::kPromptChunkBytes, chunk.size()));
  }
  received_.back() += chunk;
  StartRead(&request_);
}

absl::StatusOr<std::vector<std::string>> PromptUpload::Check(rows::v1::PromptListRow* row) {
  std::vector<std::string> pieces;
  int64_t bytes = 0;
  const auto add = [&](absl::string_view text) {
    bytes += static_cast<int64_t>(text.size());
    while (!text.empty()) {
      if (pieces.empty() || pieces.back().size() == common::kPromptChunkBytes) {
        pieces.emplace_back().reserve(common::kPromptChunkBytes);
      }
      const absl::string_view part =
          text.substr(0, common::kPromptChunkBytes - pieces.back().size());
      absl::StrAppend(&pieces.back(), part);
      text.remove_prefix(part.size());
    }
  };
  const auto add_line = [&](absl::string_view line) {
    add(line);
    add("\n");
  };
  common::PromptListChecker checker;
  for (; !received_.empty(); received_.pop_front()) {
    D2G_RETURN_IF_ERROR(checker.Add(received_.front(), add_line));
  }
  D2G_ASSIGN_OR_RETURN(*response_->mutable_digest(), checker.Finish(add_line));
  response_->set_prompt_count(checker.count());
  row->set_prompt_count(checker.count());
  row->set_bytes(bytes);
  row->set_chunks(static_cast<int32_t>(pieces.size()));
  return pieces;
}

void PromptUpload::Store() {
  // What came before the client went away may be half a list.
  if (context_->IsCancelled()) {
    Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the client went away"));
    return;
  }
  rows::v1::PromptListRow row;
  const auto pieces = Check(&row);
  if (!pieces.ok()) {
    Finish(common::ToGrpcStatus(pieces.status()));
    return;
  }
  const std::string digest = response_->digest();
  const bool known = services_.coordinator
                         ->Decide([&](ClusterState& state, Moment) {
                           return state.prompt_lists().Find(digest) != nullptr;
                         })
                         .result;
  for (size_t chunk = 0; !known && chunk < pieces->size(); ++chunk) {
    const absl::Status put =
        services_.store->PutBlob(BlobKey(digest, static_cast<int64_t>(chunk)), (*pieces)[chunk]);
    if (!put.ok()) {
      Finish(common::ToGrpcStatus(put));
      return;
    }
  }
  const auto decided = services_.coordinator->Decide([&](ClusterState& state, Moment) {
    state.AddPromptList(digest, row);
    return true;
  });
  services_.committer->WhenDurable(decided.sequence, [this](const absl::Status& durable) {
    Finish(common::ToGrpcStatus(durable));
  });
}

absl::StatusOr<rows::v1::PromptListRow> RemakePromptListRow(const RowStore& store,
                                                            absl::string_view digest) {
  rows::v1::PromptListRow row;
  std::string lines;
  while (static_cast<int64_t>(lines.size()) <= common::kMaxPromptListBytes) {
    const auto blob = store.GetBlob(BlobKey(digest, row.chunks()));
    if (row.chunks() > 0 && absl::IsNotFound(blob.status())) break;
    D2G_RETURN_IF_ERROR(blob.status());
    lines += *blob;
    row.set_chunks(row.chunks() + 1);
  }
  D2G_ASSIGN_OR_RETURN(const auto prompts, common::ParsePromptList(lines));
  if (prompts.digest != digest) {
    return absl::DataLossError(
        absl::StrCat("prompt list ", digest, " is on disk as ", prompts.digest));
  }
  row.set_prompt_count(static_cast<int64_t>(prompts.lines.size()));
  row.set_bytes(static_cast<int64_t>(lines.size()));
  return row;
}

grpc::ServerReadReactor<v1::UploadPromptListRequest>* PromptUploads::Accept(
    grpc::CallbackServerContext* context, v1::PromptList* response) {
  absl::MutexLock lock(&mutex_);
  if (running_.size() >= kMaxPromptUploads) return new RefusedUpload();
  auto* const upload = new PromptUpload(*services_, this, context, response);
  running_[upload] = {context, clock_->SteadyNow()};
  return upload;
}

void PromptUploads::Remove(const PromptUpload* upload) {
  absl::MutexLock lock(&mutex_);
  running_.erase(upload);
}

void PromptUploads::CancelOverdue() {
  const absl::Duration now = clock_->SteadyNow();
  absl::MutexLock lock(&mutex_);
  for (const auto& [upload, running] : running_) {
    if (now - running.started > kMaxUploadTime) running.context->TryCancel();
  }
}

PromptDownload::PromptDownload(const ServiceContext& services, std::string digest)
    : services_(services), digest_(std::move(digest)) {
  chunks_ = services_.coordinator
                ->Decide([&](ClusterState& state, Moment) {
                  const auto* row = state.prompt_lists().Find(digest_);
                  return row == nullptr ? -1 : row->chunks();
                })
                .result;
  if (chunks_ < 0) {
    Finish(grpc::Status(
        grpc::StatusCode::NOT_FOUND,
        absl::StrCat("no prompt list ", common::ValidUtf8(digest_, kMaxIdBytes), " was uploaded")));
    return;
  }
  SendNext();
}

void PromptDownload::OnWriteDone(bool ok) {
  if (!ok) {
    Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the client went away"));
    return;
  }
  SendNext();
}

void PromptDownload::SendNext() {
  if (next_ == chunks_) {
    Finish(grpc::Status::OK);
    return;
  }
  const bool scheduled = services_.pool->TrySchedule([this] {
    auto blob = services_.store->GetBlob(BlobKey(digest_, next_));
    if (!blob.ok()) {
      Finish(common::ToGrpcStatus(blob.status()));
      return;
    }
    ++next_;
    response_.set_chunk(*std::move(blob));
    StartWrite(&response_);
  });
  if (!scheduled) Finish(Busy());
}

}  // namespace d2g::coordinator
