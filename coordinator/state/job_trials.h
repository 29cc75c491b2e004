// Which jobs' tasks only fail now, and how that slows them and nobody else.
#pragma once

#include <map>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace d2g::coordinator {

// A job's tasks of one kind are *on trial* from a failure (or a lapse) until one of them makes
// progress: triples durable, or a completion. Tasks on trial
//   - are leased one at a time,
//   - are leased only after a back-off that grows with the failures in a row,
//   - are, from the second failure on, those that failed before: so a job that cannot work comes to
//     its end instead of failing each of its tasks once,
//   - stand behind tasks that are not on trial, but no longer than kMaxTrialDelay: so a job that
//     failed for a while is not forgotten while others keep every worker busy.
// A node on which a job's tasks fail in a row gets a separate back-off for that job, which other
// nodes' successes do not reset: it would take task after task, and fail each.
//
// A job is named here by its id and the kind of task. Nothing persists: after a restart each job is
// trusted anew. Thread-compatible; holds no time of its own.
class JobTrials {
 public:
  void NoteFailure(absl::string_view job, int kind, absl::string_view node, absl::Duration now);
  // The worker was lost or stood still: a reason to try one task at a time, none to wait.
  void NoteLapse(absl::string_view job, int kind, absl::Duration now);
  void NoteProgress(absl::string_view job, int kind, absl::string_view node);
  // Forgets a job that has ended.
  void Erase(absl::string_view job);

  bool OnTrial(absl::string_view job, int kind) const;
  // Whether what failed before is to be tried again before anything else.
  bool Insists(absl::string_view job, int kind) const;
  // Whether the tasks are served after those that are not on trial.
  bool StandsBehind(absl::string_view job, int kind, absl::Duration now) const;
  // Whether a worker of the node is leased none of the tasks now; `leased` says whether one of them
  // is leased.
  bool Waits(absl::string_view job, int kind, absl::string_view node, bool leased,
             absl::Duration now) const;

 private:
  // Failures in a row. The first one costs no time, since it may be a single task's.
  struct Streak {
    int failures = 0;
    absl::Duration not_before;
    void Fail(absl::Duration now);
  };
  struct Tasks {
    // The streak of all nodes together; no failures: not on trial.
    Streak all;
    std::map<std::string, Streak, std::less<>> nodes;
  };
  const Tasks* Find(absl::string_view job, int kind) const;

  std::map<std::pair<std::string, int>, Tasks> tasks_;
};

}  // namespace d2g::coordinator
