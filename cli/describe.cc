// d2g describe: everything about one job.
#include <cstdio>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "cli/command.h"
#include "cli/coordinator_link.h"
#include "cli/exit_code.h"
#include "cli/job_json.h"
#include "cli/report.h"
#include "services/common/status_macros.h"

namespace d2g::cli {
namespace {

struct DescribeFlags {
  CoordinatorFlags coordinator;
  std::string job;
  bool json = false;
  std::string section = "all";
};

absl::StatusOr<int> Describe(const DescribeFlags& flags) {
  D2G_ASSIGN_OR_RETURN(const auto link, CoordinatorLink::Open(flags.coordinator));
  D2G_ASSIGN_OR_RETURN(const auto job, link->GetJob(JobName(flags.job)));
  if (flags.json) {
    std::fputs(ToJson(job).c_str(), stdout);
    return kExitOk;
  }
  if (flags.section == "stages") {
    std::fputs(StageTimesTable(job).c_str(), stdout);
    return kExitOk;
  }
  if (flags.section == "evaluation") {
    if (!job.has_evaluation()) {
      return absl::FailedPreconditionError(absl::StrCat(job.name(), " has no evaluation yet"));
    }
    std::fputs(EvaluationTable(job.evaluation()).c_str(), stdout);
    return kExitOk;
  }
  D2G_ASSIGN_OR_RETURN(const auto checkpoints, link->ListCheckpoints(job.name()));
  D2G_ASSIGN_OR_RETURN(const auto tasks, link->ListTasks(job.name()));
  std::fputs(JobDescription(job, checkpoints, tasks, absl::Now()).c_str(), stdout);
  return kExitOk;
}

}  // namespace

void AddDescribe(CLI::App& app, Action* action) {
  auto flags = std::make_shared<DescribeFlags>();
  CLI::App* describe =
      app.add_subcommand("describe", "Show a job: stages, checkpoints, health, evaluation");
  describe->add_option("JOB", flags->job, "The job's name")->required();
  AddCoordinatorFlags(describe, &flags->coordinator);
  describe->add_flag("--json", flags->json, "The job as JSON");
  describe->add_option("--section", flags->section, "all, stages or evaluation")
      ->check(CLI::IsMember({"all", "stages", "evaluation"}))
      ->capture_default_str();
  describe->callback([flags, action] { *action = [flags] { return Describe(*flags); }; });
}

}  // namespace d2g::cli
