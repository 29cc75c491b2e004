#include "services/store/client/stream_append_session.h"

#include <algorithm>
#include <deque>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "services/common/deadline.h"
#include "services/common/grpc_status.h"
#include "services/common/retry.h"
#include "services/common/status_macros.h"
#include "services/dataset/bitmap.h"
#include "services/store/client/append_limits.h"

namespace d2g::store {

using v1::AppendTriplesRequest;
using v1::AppendTriplesResponse;
using v1::Triple;
using v1::TripleService;

namespace {

// A shard that does not answer `open` within this is treated as unreachable.
constexpr absl::Duration kOpenTimeout = absl::Seconds(30);
// How often waits look at the caller's stop notification.
constexpr absl::Duration kStopPoll = absl::Milliseconds(200);

class StreamAppendSession final : public AppendSession {
 public:
  StreamAppendSession(TripleService::Stub* stub, AppendTriplesRequest::Open open,
                      std::string address, const absl::Notification* stop)
      : stub_(stub),
        open_(std::move(open)),
        address_(std::move(address)),
        stop_(stop),
        first_presence_(open_.range().end() - open_.range().begin()) {}

  ~StreamAppendSession() override {
    Cancel();
    Disconnect();
  }

  absl::Status Open(absl::Time deadline) {
    D2G_RETURN_IF_ERROR(Connect(deadline));
    absl::MutexLock lock(&mutex_);
    first_presence_ = presence_;
    return absl::OkStatus();
  }

  bool WasPresent(int64_t index) const override {
    const int64_t position = index - open_.range().begin();
    return position >= 0 && position < first_presence_.size() && first_presence_.Get(position);
  }
  int64_t present_count() const override { return first_presence_.Count(); }

  absl::Status Write(std::vector<Triple> triples, absl::Time deadline) override {
    AppendTriplesRequest message;
    int64_t bytes = 0;
    for (Triple& triple : triples) {
      const auto size = static_cast<int64_t>(triple.x().size());
      if (message.batch().triples_size() == kMaxBatchTriples ||
          (bytes > 0 && bytes + size > kMaxBatchBytes)) {
        D2G_RETURN_IF_ERROR(Send(std::move(message), bytes, deadline));
        message.Clear();
        bytes = 0;
      }
      bytes += size;
      *message.mutable_batch()->add_triples() = std::move(triple);
    }
    if (message.batch().triples_size() == 0) return absl::OkStatus();
    return Send(std::move(message), bytes, deadline);
  }

  absl::StatusOr<Totals> Finish(absl::Time deadline) override {
    while (true) {
      const auto settled = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
        return unacked_.empty() || ended_;
      };
      D2G_RETURN_IF_ERROR(WaitUntil(absl::Condition(&settled), deadline));
      {
        absl::MutexLock lock(&mutex_);
        if (unacked_.empty()) break;
      }
      D2G_RETURN_IF_ERROR(Recover(deadline));
    }
    stream_->WritesDone();
    Disconnect();
    return totals();
  }

  Totals totals() const override {
    absl::MutexLock lock(&mutex_);
    return totals_;
  }

  void Cancel() override {
    absl::MutexLock lock(&mutex_);
    cancelled_ = true;
    if (context_ != nullptr) context_->TryCancel();
  }

 private:
  using Stream = grpc::ClientReaderWriter<AppendTriplesRequest, AppendTriplesResponse>;

  // A batch that the shard has not acknowledged. Who writes the message shares it, so that an
  // acknowledgement cannot take it away.
  struct Unacked {
    std::shared_ptr<AppendTriplesRequest> message;
    int64_t bytes = 0;
  };

  absl::Status Send(AppendTriplesRequest message, int64_t bytes, absl::Time deadline) {
    while (true) {
      const auto room = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
        return outstanding_bytes_ < kMaxOutstandingBytes || ended_;
      };
      D2G_RETURN_IF_ERROR(WaitUntil(absl::Condition(&room), deadline));
      {
        absl::MutexLock lock(&mutex_);
        if (!ended_) break;
      }
      D2G_RETURN_IF_ERROR(Recover(deadline));
    }
    message.mutable_batch()->set_sequence(++sequence_);
    const auto queued = std::make_shared<AppendTriplesRequest>(std::move(message));
    {
      absl::MutexLock lock(&mutex_);
      unacked_.push_back({queued, bytes});
      outstanding_bytes_ += bytes;
    }
    if (stream_->Write(*queued)) return absl::OkStatus();
    return Recover(deadline);
  }

  // Waits with the caller's deadline, stop and Cancel in view.
  absl::Status WaitUntil(const absl::Condition& condition, absl::Time deadline) {
    absl::MutexLock lock(&mutex_);
    while (true) {
      if (cancelled_ || (stop_ != nullptr && stop_->HasBeenNotified())) {
        return absl::CancelledError(absl::StrCat("append to store ", address_, ": cancelled"));
      }
      if (mutex_.AwaitWithTimeout(condition, std::min(common::TimeLeft(deadline), kStopPoll))) {
        return absl::OkStatus();
      }
      if (common::TimeLeft(deadline) <= absl::ZeroDuration()) {
        return absl::DeadlineExceededError(absl::StrCat("store ", address_, " did not acknowledge ",
                                                        outstanding_bytes_, " bytes in time"));
      }
    }
  }

  // Opens the stream; retries while the shard is unreachable.
  absl::Status Connect(absl::Time deadline) {
    common::RetryOptions options;
    options.stop = stop_;
    const absl::Status status = common::RetryUntil(
        deadline, [&] { return ConnectOnce(deadline); }, options);
    return common::Annotate(status, absl::StrCat("store ", address_));
  }

  absl::Status ConnectOnce(absl::Time deadline) {
    Disconnect();
    auto context = std::make_unique<grpc::ClientContext>();
    {
      absl::MutexLock lock(&mutex_);
      if (cancelled_) return absl::CancelledError("cancelled");
      context_ = std::move(context);
      opened_ = false;
      ended_ = false;
      stream_ = stub_->AppendTriples(context_.get());
    }
    AppendTriplesRequest first;
    *first.mutable_open() = open_;
    stream_->Write(first);  // A failure shows in the reader.
    reader_ = std::thread([this] { ReadAnswers(); });
    const auto answered = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return opened_ || ended_; };
    const absl::Status waited =
        WaitUntil(absl::Condition(&answered), std::min(deadline, common::DeadlineIn(kOpenTimeout)));
    if (waited.ok()) {
      absl::MutexLock lock(&mutex_);
      if (!ended_) return absl::OkStatus();
    }
    Disconnect();
    if (absl::IsDeadlineExceeded(waited)) {
      return absl::UnavailableError("it does not answer");
    }
    if (!waited.ok()) return waited;
    absl::MutexLock lock(&mutex_);
    return EndStatus();
  }

  // Ends the stream, if any, and its reader.
  void Disconnect() {
    if (!reader_.joinable()) return;
    {
      absl::MutexLock lock(&mutex_);
      if (!unacked_.empty() || !opened_) context_->TryCancel();
    }
    reader_.join();
    stream_.reset();
    absl::MutexLock lock(&mutex_);
    context_.reset();
  }

  void ReadAnswers() {
    AppendTriplesResponse response;
    while (stream_->Read(&response)) {
      absl::MutexLock lock(&mutex_);
      if (response.has_opened()) {
        opened_ = presence_.Assign(response.opened().presence());
      } else {
        totals_.written += response.ack().written();
        totals_.repeated += response.ack().repeated_count();
        while (!unacked_.empty() &&
               unacked_.front().message->batch().sequence() <= response.ack().sequence()) {
          outstanding_bytes_ -= unacked_.front().bytes;
          unacked_.pop_front();
        }
      }
    }
    const grpc::Status status = stream_->Finish();
    absl::MutexLock lock(&mutex_);
    end_status_ = cancelled_ ? common::FromGrpcStatus(status) : common::FromServer(status);
    ended_ = true;
  }

  // A stream that the shard ended without an error is as good as lost.
  absl::Status EndStatus() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return end_status_.ok() ? absl::UnavailableError("the shard ended the stream") : end_status_;
  }

  // After the stream broke: opens it again and sends what is not durable yet, until that goes
  // through, the shard refuses it or the deadline passes.
  absl::Status Recover(absl::Time deadline) {
    const auto ended = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return ended_; };
    common::Backoff backoff;
    while (true) {
      D2G_RETURN_IF_ERROR(WaitUntil(absl::Condition(&ended), deadline));
      {
        absl::MutexLock lock(&mutex_);
        if (cancelled_) return absl::CancelledError("cancelled");
        const absl::Status status = EndStatus();
        if (!common::IsRetryable(status) || common::TimeLeft(deadline) <= absl::ZeroDuration()) {
          return common::Annotate(status, absl::StrCat("store ", address_));
        }
      }
      D2G_RETURN_IF_ERROR(Connect(deadline));
      DropDurable();
      if (ResendAll()) return absl::OkStatus();
      D2G_RETURN_IF_ERROR(Pause(std::min(deadline, common::DeadlineIn(backoff.Next()))));
    }
  }

  // CANCELLED by the caller's stop or Cancel.
  absl::Status Pause(absl::Time until) {
    const auto never = [] { return false; };
    const absl::Status waited = WaitUntil(absl::Condition(&never), until);
    return absl::IsCancelled(waited) ? waited : absl::OkStatus();
  }

  // Takes out of the unacknowledged batches what the new presence bitmap shows as durable: its
  // acknowledgement got lost.
  void DropDurable() {
    absl::MutexLock lock(&mutex_);
    std::deque<Unacked> rest;
    outstanding_bytes_ = 0;
    for (Unacked& batch : unacked_) {
      auto* triples = batch.message->mutable_batch()->mutable_triples();
      const auto durable = [this](const Triple& triple) ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
        return presence_.Get(triple.index() - open_.range().begin());
      };
      const auto kept = std::remove_if(triples->begin(), triples->end(), durable);
      totals_.written += triples->end() - kept;
      triples->erase(kept, triples->end());
      if (triples->empty()) continue;
      batch.bytes = 0;
      for (const Triple& triple : *triples) batch.bytes += static_cast<int64_t>(triple.x().size());
      outstanding_bytes_ += batch.bytes;
      rest.push_back(std::move(batch));
    }
    unacked_ = std::move(rest);
  }

  // False when the stream broke again.
  bool ResendAll() {
    std::vector<std::shared_ptr<const AppendTriplesRequest>> messages;
    {
      absl::MutexLock lock(&mutex_);
      for (const Unacked& batch : unacked_) messages.push_back(batch.message);
    }
    for (const auto& message : messages) {
      if (!stream_->Write(*message)) return false;
    }
    return true;
  }

  TripleService::Stub* const stub_;
  const AppendTriplesRequest::Open open_;
  const std::string address_;
  const absl::Notification* const stop_;
  dataset::Bitmap first_presence_;

  // Belongs to the caller's thread.
  int64_t sequence_ = 0;
  // Made and reset by the caller's thread, while no reader runs.
  std::unique_ptr<Stream> stream_;
  std::thread reader_;

  mutable absl::Mutex mutex_;
  std::unique_ptr<grpc::ClientContext> context_ ABSL_GUARDED_BY(mutex_);
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool opened_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status end_status_ ABSL_GUARDED_BY(mutex_);
  // As of the last open.
  dataset::Bitmap presence_ ABSL_GUARDED_BY(mutex_){open_.range().end() - open_.range().begin()};
  std::deque<Unacked> unacked_ ABSL_GUARDED_BY(mutex_);
  int64_t outstanding_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  Totals totals_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<std::unique_ptr<AppendSession>> OpenStreamAppendSession(
    TripleService::Stub* stub, const AppendTriplesRequest::Open& open, const std::string& address,
    const absl::Notification* stop, absl::Time deadline) {
  if (open.range().end() <= open.range().begin()) {
    return absl::InvalidArgumentError("append: the range is empty");
  }
  auto session = std::make_unique<StreamAppendSession>(stub, open, address, stop);
  D2G_RETURN_IF_ERROR(session->Open(deadline));
  return session;
}

}  // namespace d2g::store
