// How a job's progress looks: bars on a terminal, plain lines elsewhere. Pure functions of the job.
// What a terminal would obey in its strings is written out (services/common/utf8.h).
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "d2g/coordinator/v1/job.pb.h"

namespace d2g::cli {

// "running", "paused", ...
std::string StateName(coordinator::v1::Job::State state);
// "simulate", "train", "export", "evaluate".
std::string StageName(coordinator::v1::Stage stage);
// SUCCEEDED, FAILED or CANCELLED: nothing changes any more.
bool IsFinal(coordinator::v1::Job::State state);

// "[########------------]", `width` characters inside; empty when total is not known.
std::string Bar(int64_t done, int64_t total, int width);

// The job's head line, one line a stage (bar, counts, rate, time left or taken) and its health,
// cut to `columns` code points each.
std::vector<std::string> ProgressLines(const coordinator::v1::Job& job, int columns);

// Chooses what to print where lines cannot be overwritten. Not thread-safe.
class PlainProgress {
 public:
  // A running stage is reported at most this often.
  static constexpr absl::Duration kInterval = absl::Seconds(10);

  // Lines for this state of the job, given what was printed before: every change of state, each new
  // note of its health, every stage's start and end, and the running stages once per kInterval.
  std::vector<std::string> Update(const coordinator::v1::Job& job, absl::Duration now);

 private:
  struct Seen {
    bool started = false;
    bool ended = false;
    absl::Duration printed = -absl::InfiniteDuration();
    int64_t done = -1;
  };
  std::map<int, Seen> stages_;
  int state_ = -1;
  std::set<std::string> health_;
};

}  // namespace d2g::cli
