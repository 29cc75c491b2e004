#include "coordinator/prompt_streams.h"

#include "absl/strings/str_cat.h"
#include "coordinator/limits.h"
#include "coordinator/row_keys.h"
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

}  // namespace

PromptUpload::PromptUpload(const ServiceContext& services, grpc::CallbackServerContext* context,
                           v1::PromptList* response)
    : services_(services), context_(context), response_(response) {
  StartRead(&request_);
}

void PromptUpload::OnReadDone(bool ok) {
  if (!ok) {
    if (!services_.pool->TrySchedule([this] { Store(); })) Finish(Busy());
    return;
  }
  if (static_cast<int64_t>(text_.size() + request_.chunk().size()) > common::kMaxPromptListBytes) {
    Finish(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT,
                        absl::StrCat("prompt list is larger than ", common::kMaxPromptListBytes,
                                     " bytes, the most that is taken")));
    return;
  }
  text_ += request_.chunk();
  StartRead(&request_);
}

void PromptUpload::Store() {
  // What came before the client went away may be half a list.
  if (context_->IsCancelled()) {
    Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the client went away"));
    return;
  }
  const auto prompts = d2g::common::ParsePromptList(text_);
  if (!prompts.ok()) {
    Finish(d2g::common::ToGrpcStatus(prompts.status()));
    return;
  }
  std::string lines;  // as the digest was taken: each line ended by \n
  lines.reserve(text_.size() + 1);
  for (const std::string& line : prompts->lines) absl::StrAppend(&lines, line, "\n");
  rows::v1::PromptListRow row;
  row.set_prompt_count(static_cast<int64_t>(prompts->lines.size()));
  row.set_bytes(static_cast<int64_t>(lines.size()));
  const bool known = services_.coordinator
                         ->Decide([&](ClusterState& state, Moment) {
                           return state.FindPromptList(prompts->digest) != nullptr;
                         })
                         .result;
  for (size_t at = 0; at < lines.size(); at += kPromptChunkBytes) {
    if (!known) {
      const absl::Status put =
          services_.store->PutBlob(BlobKey(prompts->digest, row.chunks()),
                                   absl::string_view(lines).substr(at, kPromptChunkBytes));
      if (!put.ok()) {
        Finish(d2g::common::ToGrpcStatus(put));
        return;
      }
    }
    row.set_chunks(row.chunks() + 1);
  }
  response_->set_digest(prompts->digest);
  response_->set_prompt_count(row.prompt_count());
  const auto decided = services_.coordinator->Decide([&](ClusterState& state, Moment) {
    state.AddPromptList(prompts->digest, row);
    return true;
  });
  services_.committer->WhenDurable(decided.sequence, [this](const absl::Status& durable) {
    Finish(d2g::common::ToGrpcStatus(durable));
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

PromptDownload::PromptDownload(const ServiceContext& services, std::string digest)
    : services_(services), digest_(std::move(digest)) {
  chunks_ = services_.coordinator
                ->Decide([&](ClusterState& state, Moment) {
                  const auto* row = state.FindPromptList(digest_);
                  return row == nullptr ? -1 : row->chunks();
                })
                .result;
  if (chunks_ < 0) {
    Finish(
        grpc::Status(grpc::StatusCode::NOT_FOUND,
                     absl::StrCat("no prompt list ", d2g::common::ValidUtf8(digest_, kMaxIdBytes),
                                  " was uploaded")));
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
      Finish(d2g::common::ToGrpcStatus(blob.status()));
      return;
    }
    ++next_;
    response_.set_chunk(*std::move(blob));
    StartWrite(&response_);
  });
  if (!scheduled) Finish(Busy());
}

}  // namespace d2g::coordinator
