// Takes decisions one at a time and makes them durable.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "coordinator/decider/cluster_metrics.h"
#include "coordinator/decider/committer.h"
#include "coordinator/state/cluster_state.h"
#include "services/common/clock.h"

namespace d2g::coordinator {

// What was decided, and when it may be told: once the sink has made `sequence` durable. This holds
// for refusals and for reads too, because they may rest on decisions that are not durable yet.
template <typename Result>
struct Decided {
  Result result;
  int64_t sequence = 0;
};

// Owns the state, its lock and its time. Thread-safe; never blocks on I/O: changes go to the sink
// in the order of the decisions.
class Coordinator {
 public:
  // `rows` as scanned at the start; those that cannot be used go to the sink to be set aside.
  // `sink`, `clock` and `metrics` (may be null) must outlive it.
  static std::unique_ptr<Coordinator> Create(ClusterOptions options, const RowChanges& rows,
                                             RowSink* sink, const common::Clock* clock,
                                             ClusterMetrics* metrics = nullptr);

  // Calls decision(state, now) under the lock and hands what it changed to the sink.
  template <typename Decision>
  auto Decide(Decision&& decision)
      -> Decided<std::invoke_result_t<Decision, ClusterState&, Moment>> {
    std::vector<Note> notes;
    auto decided = [&] {
      absl::MutexLock lock(&mutex_);
      const Moment now{clock_->Now(), clock_->SteadyNow()};
      state_->NoteTime(now.steady);
      auto result = std::forward<Decision>(decision)(*state_, now);
      notes = Hand();
      return Decided<decltype(result)>{std::move(result), sequence_};
    }();
    Log(notes);
    return decided;
  }

  // To be called every kTick.
  void Tick() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  Coordinator(std::unique_ptr<ClusterState> state, RowSink* sink, const common::Clock* clock,
              ClusterMetrics* metrics)
      : sink_(sink), clock_(clock), metrics_(metrics), state_(std::move(state)) {}

  // Hands changed rows to the sink; returns what is to be logged once the lock is free.
  std::vector<Note> Hand() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static void Log(const std::vector<Note>& notes);

  RowSink* const sink_;
  const common::Clock* const clock_;
  ClusterMetrics* const metrics_;
  absl::Mutex mutex_;
  const std::unique_ptr<ClusterState> state_ ABSL_PT_GUARDED_BY(mutex_);
  int64_t sequence_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace d2g::coordinator
