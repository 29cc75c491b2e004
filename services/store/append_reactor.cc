#include "services/store/append_reactor.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/common/grpc_status.h"
#include "services/common/status_macros.h"
#include "services/store/client/append_limits.h"
#include "services/store/dataset_key.h"

namespace d2g::store {

using v1::AppendTriplesRequest;
using v1::AppendTriplesResponse;
using v1::Triple;

namespace {

int64_t BytesOfBatch(const AppendTriplesRequest::Batch& batch) {
  int64_t bytes = 0;
  for (const Triple& triple : batch.triples()) bytes += static_cast<int64_t>(triple.x().size());
  return bytes;
}

}  // namespace

AppendReactor::AppendReactor(TripleStore* store, common::ThreadPool* pool, StoreMetrics* metrics)
    : store_(store), pool_(pool), metrics_(metrics) {
  Advance();
}

void AppendReactor::OnReadDone(bool ok) {
  {
    absl::MutexLock lock(&mutex_);
    reading_ = false;
    if (!ok) {
      client_done_ = true;
    } else if (status_.ok()) {
      status_ = TakeMessage();
    }
  }
  Advance();
}

void AppendReactor::OnWriteDone(bool ok) {
  {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    if (!ok && status_.ok()) status_ = absl::CancelledError("the client is gone");
  }
  Advance();
}

void AppendReactor::OnCancel() {
  {
    absl::MutexLock lock(&mutex_);
    if (status_.ok()) status_ = absl::CancelledError("cancelled");
  }
  Advance();
}

absl::Status AppendReactor::TakeMessage() {
  if (request_.has_open()) {
    if (open_.has_value()) return absl::InvalidArgumentError("append: open was sent twice");
    open_ = std::move(*request_.mutable_open());
    return absl::OkStatus();
  }
  if (!request_.has_batch()) return absl::InvalidArgumentError("append: the message is empty");
  if (!open_.has_value()) {
    return absl::InvalidArgumentError("append: the first message must be open");
  }
  Batch batch = std::move(*request_.mutable_batch());
  const int64_t bytes = BytesOfBatch(batch);
  if (batch.triples_size() > kMaxBatchTriples ||
      (batch.triples_size() > 1 && bytes > kMaxBatchBytes)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "append: batch ", batch.sequence(), " has ", batch.triples_size(), " triples and ", bytes,
        " bytes; the limits are ", kMaxBatchTriples, " and ", kMaxBatchBytes));
  }
  for (const Triple& triple : batch.triples()) {
    if (triple.index() < open_->range().begin() || triple.index() >= open_->range().end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("append: index ", triple.index(), " is not in the range opened, [",
                       open_->range().begin(), ", ", open_->range().end(), ")"));
    }
  }
  queued_bytes_ += bytes;
  queue_.push_back(std::move(batch));
  return absl::OkStatus();
}

// Decides under the lock and calls gRPC after it, because gRPC may call back at once. Once Finish
// has been called the reactor may be deleted at any moment; so nobody finishes while a thread is
// between its decision and its calls (starting_) or while disk work runs (working_).
void AppendReactor::Advance(bool work_done) {
  bool started = false;
  while (true) {
    bool start_read = false;
    bool start_write = false;
    bool finish = false;
    absl::Status status;
    {
      absl::MutexLock lock(&mutex_);
      if (started) --starting_;
      if (work_done) working_ = false;
      work_done = false;
      if (finished_) return;
      const bool work_waits = !queue_.empty() || (open_.has_value() && !range_opened_);
      if (status_.ok() && work_waits && !working_) {
        working_ = pool_->TrySchedule([this] { Work(); });
        if (!working_) status_ = absl::UnavailableError("the shard is busy: its queue is full");
      }
      start_read =
          status_.ok() && !reading_ && !client_done_ && queued_bytes_ < kMaxStreamBufferBytes;
      start_write = status_.ok() && !writing_ && !answers_.empty();
      started = start_read || start_write;
      if (started) ++starting_;
      if (start_read) reading_ = true;
      if (start_write) {
        writing_ = true;
        response_ = std::move(answers_.front());
        answers_.pop_front();
      }
      // A read may stay in flight: Finish ends it.
      finish = !working_ && !writing_ && starting_ == 0 && (!status_.ok() || client_done_);
      finished_ = finish;
      status = status_;
    }
    if (finish) Finish(common::ToGrpcStatus(status));
    if (!started) return;
    if (start_read) StartRead(&request_);
    if (start_write) StartWrite(&response_);
  }
}

absl::Status AppendReactor::OpenRange(const AppendTriplesRequest::Open& open,
                                      std::string* presence) const {
  D2G_RETURN_IF_ERROR(CheckKey(open.key(), *store_));
  D2G_ASSIGN_OR_RETURN(*presence,
                       store_->OpenRange(open.key().dataset(), open.range(), open.range_epoch()));
  return absl::OkStatus();
}

void AppendReactor::Work() {
  while (true) {
    std::vector<Batch> batches;
    int64_t bytes = 0;
    bool open_range = false;
    AppendTriplesRequest::Open open;
    {
      absl::MutexLock lock(&mutex_);
      if (!status_.ok() || (queue_.empty() && range_opened_)) break;
      open = *open_;
      open_range = !range_opened_;
      while (!open_range && !queue_.empty()) {
        const int64_t next = BytesOfBatch(queue_.front());
        if (!batches.empty() && bytes + next > kMaxCommitBytes) break;
        bytes += next;
        batches.push_back(std::move(queue_.front()));
        queue_.pop_front();
      }
    }
    AppendTriplesResponse answer;
    absl::Status status;
    if (open_range) {
      status = OpenRange(open, answer.mutable_opened()->mutable_presence());
    } else {
      std::vector<const Triple*> triples;
      for (const Batch& batch : batches) {
        for (const Triple& triple : batch.triples()) triples.push_back(&triple);
      }
      const auto appended = store_->Append(open.key().dataset(), open.range_epoch(), triples);
      status = appended.status();
      if (status.ok()) {
        answer.mutable_ack()->set_sequence(batches.back().sequence());
        answer.mutable_ack()->set_written(appended->written);
        answer.mutable_ack()->set_repeated_count(appended->repeated);
      } else {
        metrics_->refused_appends.Increment();
      }
    }
    {
      absl::MutexLock lock(&mutex_);
      queued_bytes_ -= bytes;
      if (!status.ok()) {
        if (status_.ok()) status_ = status;
      } else {
        range_opened_ = true;
        answers_.push_back(std::move(answer));
      }
    }
    Advance();
  }
  Advance(/*work_done=*/true);
}

}  // namespace d2g::store
