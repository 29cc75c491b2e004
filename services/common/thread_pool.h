// A fixed number of threads and a bounded queue, for work that blocks.
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace d2g::common {

// Thread-safe. Tasks must not throw.
class ThreadPool {
 public:
  // `name` shows in the threads' names (at most 15 characters). At most `max_queued` tasks wait.
  ThreadPool(const std::string& name, int threads, int max_queued);
  // Runs what is queued, then joins.
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // False, and nothing happens, when the queue is full.
  bool TrySchedule(std::function<void()> task);
  // Waits for room in the queue. Not from a task of the same pool.
  void Schedule(std::function<void()> task);
  // Tasks waiting.
  int queued() const;

 private:
  void Run();

  const size_t max_queued_;
  mutable absl::Mutex mutex_;
  std::deque<std::function<void()>> queue_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace d2g::common
