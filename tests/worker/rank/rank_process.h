// A real d2g-rank process, as its agent sees it.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/common/child_process.h"
#include "services/common/file_io.h"
#include "worker/gang/rank_channel.h"

namespace d2g::rank {

// For what a machine under load may take.
inline constexpr absl::Duration kLong = absl::Seconds(100);

inline std::string RankBinary() { return absl::StrCat(getenv("D2G_BIN_DIR"), "/d2g-rank"); }

// A rank and what it reported.
class RankProcess {
 public:
  RankProcess(const std::string& dir, const gang::RankLaunch& launch, int rank) {
    const std::string file =
        absl::StrCat(dir, "/launch-", launch.assignment.generation(), "-", rank);
    EXPECT_TRUE(common::WriteFileAtomically(file, *gang::FormatRankLaunch(launch)).ok());
    common::ChildOptions options;
    options.argv = {RankBinary(),
                    "--assignment",
                    file,
                    "--rank",
                    absl::StrCat(rank),
                    "--status-fd",
                    absl::StrCat(common::kStatusFd)};
    options.status_pipe = true;
    options.on_status_line = [this](std::string_view line) { Take(line); };
    child_ = *common::ChildProcess::Start(std::move(options));
  }

  void Signal(int signal) { child_->Signal(signal); }
  // Exit code, or -signal.
  int Wait() {
    if (!child_->WaitForExit(kLong)) return 1000;
    const common::ExitStatus status = *child_->exit_status();
    return status.signalled ? -status.value : status.value;
  }
  std::string Output() const {
    std::string text;
    for (const std::string& line : child_->LastOutputLines()) text += line + "\n";
    return text;
  }
  std::string rendezvous() const {
    absl::MutexLock lock(&mutex_);
    return rendezvous_;
  }
  int64_t step() const {
    absl::MutexLock lock(&mutex_);
    return step_;
  }
  // The latest.
  std::string phase() const {
    absl::MutexLock lock(&mutex_);
    return phase_;
  }
  // All so far.
  std::set<std::string> phases() const {
    absl::MutexLock lock(&mutex_);
    return phases_;
  }
  // By step: the latest figures reported at it.
  std::map<int64_t, std::map<std::string, double>> metrics() const {
    absl::MutexLock lock(&mutex_);
    return metrics_;
  }

 private:
  void Take(std::string_view line) {
    const auto report = gang::ParseRankReport(line);
    ASSERT_TRUE(report.ok()) << line;
    absl::MutexLock lock(&mutex_);
    if (report->rendezvous) rendezvous_ = *report->rendezvous;
    if (report->phase) {
      phase_ = *report->phase;
      phases_.insert(phase_);
    }
    if (report->step) step_ = *report->step;
    if (!report->metrics.empty()) metrics_[step_] = report->metrics;
  }

  mutable absl::Mutex mutex_;
  std::string rendezvous_ ABSL_GUARDED_BY(mutex_);
  int64_t step_ ABSL_GUARDED_BY(mutex_) = 0;
  std::string phase_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> phases_ ABSL_GUARDED_BY(mutex_);
  std::map<int64_t, std::map<std::string, double>> metrics_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<common::ChildProcess> child_;
};

}  // namespace d2g::rank
