#include "worker/simulate/batch_writer.h"

#include <utility>

#include "services/common/clock.h"
#include "services/common/status_macros.h"

namespace d2g::simulate {
namespace {

int64_t BytesIn(const std::vector<store::v1::Triple>& triples) {
  int64_t bytes = 0;
  for (const auto& triple : triples) bytes += static_cast<int64_t>(triple.x().size());
  return bytes;
}

}  // namespace

BatchWriter::BatchWriter(common::v1::DatasetRecipe recipe, TripleSink sink,
                         SimulateMetrics* metrics)
    : recipe_(std::move(recipe)),
      sink_(std::move(sink)),
      metrics_(metrics),
      thread_([this] { Run(); }) {}

BatchWriter::~BatchWriter() {
  bool busy = false;
  {
    absl::MutexLock lock(&mutex_);
    ending_ = true;
    busy = !idle();
  }
  if (busy) sink_.cancel();
  thread_.join();
}

absl::Status BatchWriter::Write(SolvedBatch batch) {
  absl::MutexLock lock(&mutex_);
  const auto free = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return idle() || released_; };
  mutex_.Await(absl::Condition(&free));
  if (!status_.ok()) return status_;
  if (!idle()) return absl::CancelledError("the batch before is still on its way");
  in_hand_.emplace(std::move(batch));
  return absl::OkStatus();
}

void BatchWriter::Release(absl::Duration patience) {
  absl::MutexLock lock(&mutex_);
  released_ = patience;
}

absl::Status BatchWriter::Flush() {
  {
    absl::MutexLock lock(&mutex_);
    const auto free = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return idle() || released_; };
    mutex_.Await(absl::Condition(&free));
    if (idle() || mutex_.AwaitWithTimeout(absl::Condition(this, &BatchWriter::idle), *released_)) {
      return status_;
    }
  }
  sink_.cancel();
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(this, &BatchWriter::idle));
  if (status_.ok() || absl::IsCancelled(status_)) {
    status_ = absl::DeadlineExceededError("the store did not take the last batch in time");
  }
  return status_;
}

absl::Status BatchWriter::status() {
  absl::MutexLock lock(&mutex_);
  return status_;
}

std::vector<BatchWriter::Solved> BatchWriter::TakeSolved() {
  absl::MutexLock lock(&mutex_);
  return std::exchange(solved_, {});
}

void BatchWriter::Run() {
  const auto due = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return in_hand_ || ending_; };
  for (;;) {
    SolvedBatch* batch = nullptr;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&due));
      if (!in_hand_) return;
      batch = &*in_hand_;
    }
    // Nobody else touches a batch in hand.
    absl::Status status = WriteNow(*batch);
    absl::MutexLock lock(&mutex_);
    status_.Update(std::move(status));
    in_hand_.reset();
  }
}

absl::Status BatchWriter::WriteNow(SolvedBatch& batch) {
  D2G_ASSIGN_OR_RETURN(const absl::Duration elapsed, Fetch(batch));
  D2G_ASSIGN_OR_RETURN(std::vector<store::v1::Triple> triples, MakeTriples(recipe_, batch));
  const auto count = static_cast<int64_t>(batch.indices.size());
  {
    absl::MutexLock lock(&mutex_);
    solved_.push_back({count, elapsed});
  }
  metrics_->batches.Increment();
  metrics_->triples.Increment(static_cast<double>(count));
  metrics_->triple_rate.Set(static_cast<double>(count) / absl::ToDoubleSeconds(elapsed));
  metrics_->appended_bytes.Increment(static_cast<double>(BytesIn(triples)));
  const absl::Duration start = common::RealClock::Get()->SteadyNow();
  const absl::Status written = sink_.write(std::move(triples));
  metrics_->append_wait_seconds.Observe(
      absl::ToDoubleSeconds(common::RealClock::Get()->SteadyNow() - start));
  return written;
}

}  // namespace d2g::simulate
