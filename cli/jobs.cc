// d2g jobs: the list of jobs.
#include <cstdio>
#include <memory>

#include "absl/time/clock.h"
#include "cli/command.h"
#include "cli/coordinator_link.h"
#include "cli/exit_code.h"
#include "cli/report.h"
#include "services/common/status_macros.h"

namespace d2g::cli {
namespace {

constexpr int64_t kMaxJobsListed = 1'000'000;

}  // namespace

void AddJobs(CLI::App& app, Action* action) {
  struct Flags {
    CoordinatorFlags coordinator;
    int64_t limit = 50;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* jobs = app.add_subcommand("jobs", "List jobs, newest first");
  AddCoordinatorFlags(jobs, &flags->coordinator);
  jobs->add_option("--limit", flags->limit, "At most this many")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, kMaxJobsListed));
  jobs->callback([flags, action] {
    *action = [flags]() -> absl::StatusOr<int> {
      D2G_ASSIGN_OR_RETURN(const auto link, CoordinatorLink::Open(flags->coordinator));
      D2G_ASSIGN_OR_RETURN(const auto list, link->ListJobs(static_cast<size_t>(flags->limit)));
      std::fputs(JobsTable(list, absl::Now()).c_str(), stdout);
      return kExitOk;
    };
  });
}

}  // namespace d2g::cli
