// d2g cancel, pause and resume: what the user wants of a job.
#include <cstdio>
#include <memory>

#include "cli/command.h"
#include "cli/coordinator_link.h"
#include "cli/exit_code.h"
#include "cli/progress.h"
#include "services/common/status_macros.h"
#include "services/common/utf8.h"

namespace d2g::cli {
namespace {

using coordinator::v1::Job;

void AddOne(CLI::App& app, Action* action, const char* name, const char* help,
            Job::DesiredState wanted) {
  struct Flags {
    CoordinatorFlags coordinator;
    std::string job;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand(name, help);
  command->add_option("JOB", flags->job, "The job's name")->required();
  AddCoordinatorFlags(command, &flags->coordinator);
  command->callback([flags, action, wanted] {
    *action = [flags, wanted]() -> absl::StatusOr<int> {
      D2G_ASSIGN_OR_RETURN(const auto link, CoordinatorLink::Open(flags->coordinator));
      D2G_ASSIGN_OR_RETURN(const Job job, link->SetDesiredState(JobName(flags->job), wanted));
      const bool pausing = wanted == Job::DESIRED_STATE_PAUSED && job.state() == Job::STATE_RUNNING;
      std::printf("%s is %s\n", common::WithoutControls(job.name()).c_str(),
                  pausing ? "pausing: it is paused once its work is saved (d2g describe tells)"
                          : StateName(job.state()).c_str());
      return kExitOk;
    };
  });
}

}  // namespace

void AddSteering(CLI::App& app, Action* action) {
  AddOne(app, action, "cancel", "End a job for good", Job::DESIRED_STATE_CANCELLED);
  AddOne(app, action, "pause", "Checkpoint a job and stop it", Job::DESIRED_STATE_PAUSED);
  AddOne(app, action, "resume", "Let a paused job go on", Job::DESIRED_STATE_RUNNING);
}

}  // namespace d2g::cli
