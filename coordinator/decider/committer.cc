#include "coordinator/decider/committer.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "services/common/clock.h"

namespace d2g::coordinator {

Committer::Committer(Hooks hooks) : hooks_(std::move(hooks)), thread_([this] { Run(); }) {}

Committer::~Committer() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

int64_t Committer::Enqueue(RowChanges changes) {
  absl::MutexLock lock(&mutex_);
  queue_.push_back(std::move(changes));
  return ++enqueued_;
}

void Committer::WhenDurable(int64_t sequence, std::function<void(const absl::Status&)> done) {
  absl::Status status;
  {
    absl::MutexLock lock(&mutex_);
    if (failure_.ok() && durable_ < sequence) {
      waiters_.emplace_back(sequence, std::move(done));
      return;
    }
    status = failure_;
  }
  done(status);
}

absl::Status Committer::WaitDurable(int64_t sequence) {
  absl::Status result;
  absl::Notification notified;
  WhenDurable(sequence, [&](const absl::Status& status) {
    result = status;
    notified.Notify();
  });
  notified.WaitForNotification();
  return result;
}

absl::Status Committer::status() const {
  absl::MutexLock lock(&mutex_);
  return failure_;
}

void Committer::Run() {
  const common::Clock* const clock = common::RealClock::Get();
  while (true) {
    std::vector<RowChanges> groups;
    int64_t last = 0;
    absl::Status status;
    bool failed_before = false;
    {
      absl::MutexLock lock(&mutex_);
      const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return stopping_ || !queue_.empty();
      };
      mutex_.Await(absl::Condition(&ready));
      if (queue_.empty()) return;
      groups.swap(queue_);
      last = enqueued_;
      status = failure_;
      failed_before = !failure_.ok();
    }
    if (!failed_before) {
      const absl::Duration start = clock->SteadyNow();
      status = hooks_.write(groups);
      if (hooks_.seconds != nullptr) {
        hooks_.seconds->Observe(absl::ToDoubleSeconds(clock->SteadyNow() - start));
      }
      if (!status.ok()) {
        status = absl::UnavailableError(
            absl::StrCat("the coordinator cannot write its rows: ", status.message()));
      } else if (hooks_.rows != nullptr) {
        size_t rows = 0;
        for (const RowChanges& changes : groups) rows += changes.size();
        hooks_.rows->Increment(static_cast<double>(rows));
      }
    }
    std::vector<Waiter> done;
    {
      absl::MutexLock lock(&mutex_);
      if (status.ok()) {
        durable_ = last;
      } else {
        failure_ = status;
      }
      const auto waits =
          std::partition(waiters_.begin(), waiters_.end(),
                         [&](const Waiter& waiter) { return status.ok() && waiter.first > last; });
      std::move(waits, waiters_.end(), std::back_inserter(done));
      waiters_.erase(waits, waiters_.end());
    }
    for (const Waiter& waiter : done) waiter.second(status);
    if (!status.ok() && !failed_before && hooks_.on_failure) hooks_.on_failure(status);
  }
}

}  // namespace d2g::coordinator
