// A rank for tests of the gang agent: speaks the status protocol and does as the job's display_name
// says, words separated by commas:
//   steps=N       is done after N steps (default: never)
//   die=R@S       rank R exits with code 1 at step S, after a last word
//   fail=R@S@C    rank R ends as d2g-rank does: log lines, then why, then exit code C at step S
//   late=R@S@C    the same, half a second later than it would have
//   asleep=R      rank R never reports anything
//   unready=R     rank R exits with code 1 before it has reported anything
//   unmet=R       rank R exits with code 77 before it has reported anything
//   abort=R@S     rank R is killed by SIGABRT at step S
//   sigh=R@S      rank R exits with code 1 at step S, after long last words, none of them ASCII
//   hang=R@S      rank R stops reporting at step S
//   wait=R@S      rank R reports data_wait at step S, then nothing for a while, then goes on
//   busy=R@S      rank R reports progress within step S for a while, then goes on
//   load          loads for ever, deaf to SIGTERM
//   stubborn      ignores SIGTERM
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "services/common/file_io.h"
#include "services/common/program.h"
#include "worker/gang/rank_channel.h"

namespace {

volatile sig_atomic_t g_stop = 0;

struct Behaviour {
  int64_t steps = 1 << 30;
  bool stubborn = false;
  bool load = false;
  bool asleep = false;
  bool unready = false, unmet = false;
  // Steps at which this rank does it; -1 never.
  int64_t die = -1, fail = -1, abort = -1, sigh = -1, hang = -1, wait = -1, busy = -1;
  int fail_code = 0;
  bool fail_late = false;
};

Behaviour Parse(const std::string& words, int rank) {
  Behaviour result;
  for (const absl::string_view word : absl::StrSplit(words, ',', absl::SkipEmpty())) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(word, absl::MaxSplits('=', 1));
    if (parts.first == "stubborn") result.stubborn = true;
    if (parts.first == "load") result.load = true;
    if (parts.first == "steps") result.steps = std::atoll(parts.second.c_str());
    const std::pair<std::string, std::string> at =
        absl::StrSplit(parts.second, absl::MaxSplits('@', 1));
    if (std::atoi(at.first.c_str()) != rank) continue;
    const int64_t step = std::atoll(at.second.c_str());
    if (parts.first == "die") result.die = step;
    if (parts.first == "asleep") result.asleep = true;
    if (parts.first == "unready") result.unready = true;
    if (parts.first == "unmet") result.unmet = true;
    if (parts.first == "fail" || parts.first == "late") {
      result.fail = step;
      result.fail_late = parts.first == "late";
      result.fail_code = std::atoi(at.second.substr(at.second.find('@') + 1).c_str());
    }
    if (parts.first == "abort") result.abort = step;
    if (parts.first == "sigh") result.sigh = step;
    if (parts.first == "hang") result.hang = step;
    if (parts.first == "wait") result.wait = step;
    if (parts.first == "busy") result.busy = step;
  }
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  std::string assignment;
  int rank = -1, fd = -1;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--assignment") == 0) assignment = argv[i + 1];
    if (std::strcmp(argv[i], "--rank") == 0) rank = std::atoi(argv[i + 1]);
    if (std::strcmp(argv[i], "--status-fd") == 0) fd = std::atoi(argv[i + 1]);
  }
  const auto text = d2g::common::ReadFile(assignment);
  if (!text.ok()) return 3;
  const auto launch = d2g::gang::ParseRankLaunch(*text);
  if (!launch.ok() || rank < 0 || fd < 0) return 3;
  const Behaviour behaviour = Parse(launch->assignment.work().spec().display_name(), rank);
  signal(
      SIGTERM, behaviour.stubborn ? SIG_IGN : +[](int) { g_stop = 1; });
  d2g::gang::RankStatusWriter status(fd);
  if (behaviour.unready) {
    std::fprintf(stderr, "error while loading shared libraries\n");
    return 1;
  }
  if (behaviour.unmet) {
    std::fprintf(stderr, "rank 0 cannot be reached\n");
    return d2g::gang::kExitPeerLost;
  }
  while (behaviour.asleep) pause();
  if (rank == 0) {
    if (!status.Write({.rendezvous = "127.0.0.1:4242"}).ok()) return 1;
  } else if (launch->assignment.rendezvous() != "127.0.0.1:4242") {
    std::fprintf(stderr, "rank %d has no rendezvous\n", rank);
    return 1;
  }
  if (behaviour.load) {
    (void)status.Write({.phase = d2g::gang::kPhaseLoad});
    while (true) pause();
  }
  for (int64_t step = 1; step <= behaviour.steps; ++step) {
    if (g_stop) {
      (void)status.Write({.phase = d2g::gang::kPhaseCheckpoint});
      return d2g::common::kExitStopped;
    }
    if (step == behaviour.die) {
      std::fprintf(stderr, "rank %d cannot go on: out of luck\n", rank);
      return 1;
    }
    if (step == behaviour.sigh) {
      // Lines of which one in three ends inside a character wherever they are cut, and one that is
      // no UTF-8 at all.
      for (int line = 0; line < 3; ++line) {
        std::string sigh(static_cast<size_t>(line), '.');
        while (sigh.size() < 1000) sigh += "\xe2\x82\xac";
        std::fprintf(stderr, "%s\n", sigh.c_str());
      }
      std::fprintf(stderr, "caf\xe9\n");
      return 1;
    }
    if (step == behaviour.fail) {
      if (behaviour.fail_late) absl::SleepFor(absl::Milliseconds(500));
      for (int line = 0; line < 8; ++line) std::fprintf(stderr, "I planned an epoch %d\n", line);
      std::fprintf(stderr, "%s: rank %d in step %d: ends with %d\n", d2g::gang::kRankProgram, rank,
                   static_cast<int>(step), behaviour.fail_code);
      std::fprintf(stderr, "I goodbye\n");
      return behaviour.fail_code;
    }
    if (step == behaviour.abort) std::abort();
    if (step == behaviour.hang) {
      while (true) pause();
    }
    if (step == behaviour.wait) {
      (void)status.Write({.phase = d2g::gang::kPhaseDataWait});
      absl::SleepFor(absl::Milliseconds(3500));
    }
    for (int64_t piece = 1; step == behaviour.busy && piece <= 70; ++piece) {
      (void)status.Write({.progress = piece});
      absl::SleepFor(absl::Milliseconds(50));
    }
    (void)status.Write({.phase = d2g::gang::kPhaseStep,
                        .step = step,
                        .metrics = {{"loss", 1.0 / static_cast<double>(step)}}});
    absl::SleepFor(absl::Milliseconds(5));
  }
  (void)status.Write({.phase = d2g::gang::kPhaseDone});
  return 0;
}
