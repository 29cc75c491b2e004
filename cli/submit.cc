// d2g submit: a job file becomes a job.
#include <cstdio>
#include <filesystem>
#include <memory>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "cli/command.h"
#include "cli/coordinator_link.h"
#include "cli/exit_code.h"
#include "cli/format.h"
#include "cli/job_file.h"
#include "cli/watch.h"
#include "services/common/file_io.h"
#include "services/common/grpc_status.h"
#include "services/common/prompts.h"
#include "services/common/status_macros.h"
#include "services/common/utf8.h"
#include "services/spec/annotated_spec.h"
#include "services/spec/normal_spec.h"

namespace d2g::cli {
namespace {

using coordinator::v1::CreateJobRequest;
using coordinator::v1::Job;

struct SubmitFlags {
  CoordinatorFlags coordinator;
  std::string file;
  std::vector<std::string> set;
  std::string request_id;
  bool overwrite = false;
  bool validate_only = false;
  bool watch = false;
  bool help_spec = false;
};

// Makes a retry of one submission safe when the user named no id.
std::string RandomRequestId() {
  std::random_device random;
  return absl::StrFormat("d2g-%08x%08x%08x%08x", random(), random(), random(), random());
}

// The prompt list that the spec names; its digest goes into the spec. Nothing when the spec gives
// only a digest, or neither (which is the coordinator's to refuse).
absl::StatusOr<common::PromptLines> ReadPrompts(coordinator::v1::JobSpec* spec) {
  const std::string& path = spec->prompts().path();
  if (path.empty()) return common::PromptLines{};
  absl::StatusOr<std::string> text = common::ReadFile(path, common::kMaxPromptListBytes);
  if (absl::IsResourceExhausted(text.status())) {  // too large
    return absl::InvalidArgumentError(absl::StrCat("prompts.path: ", text.status().message()));
  }
  if (!text.ok()) return common::Annotate(text.status(), "prompts.path");
  absl::StatusOr<common::PromptLines> prompts = common::ParsePromptFile(*text);
  if (!prompts.ok())
    return common::Annotate(prompts.status(), absl::StrCat("prompts.path: ", path));
  if (!spec->prompts().digest().empty() && spec->prompts().digest() != prompts->digest) {
    return absl::InvalidArgumentError(absl::StrCat("prompts.digest: ", spec->prompts().digest(),
                                                   " was asked for; ", path, " has ",
                                                   prompts->digest));
  }
  spec->mutable_prompts()->set_digest(prompts->digest);
  return prompts;
}

// The coordinator's complaints in the job file's words: "FILE: train.steps: ...; ...".
absl::Status InFileTerms(const absl::Status& status, const std::string& file) {
  const auto violations = common::FieldViolations(status);
  if (violations.empty()) return status;
  const auto line = [](std::string* out, const common::FieldViolation& violation) {
    absl::StrAppend(out, absl::StripPrefix(violation.field, "spec."), ": ",
                    common::WithoutControls(violation.description));
  };
  return absl::InvalidArgumentError(
      absl::StrCat(file, ": ", absl::StrJoin(violations, "; ", line)));
}

// True when all that the coordinator misses is the prompt list: the job is fine otherwise.
bool OnlyPromptsAreMissing(const absl::Status& status) {
  const auto violations = common::FieldViolations(status);
  return violations.size() == 1 && violations[0].field == spec::kPromptsDigestField;
}

// Creates the job, uploading its prompt list when the coordinator does not have it. Asked first
// without it, so that a job that is refused leaves nothing behind, not even the list.
absl::StatusOr<Job> Create(CoordinatorLink& link, const CreateJobRequest& request,
                           const common::PromptLines& prompts) {
  absl::StatusOr<Job> job = link.CreateJob(request);
  if (job.ok() || prompts.lines.empty() || !OnlyPromptsAreMissing(job.status())) return job;
  if (request.validate_only()) return Job();
  D2G_RETURN_IF_ERROR(link.UploadPromptList(prompts));
  return link.CreateJob(request);
}

absl::StatusOr<int> Submit(const SubmitFlags& flags) {
  if (flags.help_spec) {
    std::fputs(spec::AnnotatedSpec().c_str(), stdout);
    return kExitOk;
  }
  CreateJobRequest request;
  D2G_ASSIGN_OR_RETURN(*request.mutable_spec(), LoadJobFile(flags.file));
  for (const std::string& assignment : flags.set) {
    D2G_RETURN_IF_ERROR(SetJobField(assignment, request.mutable_spec()));
  }
  if (!flags.set.empty()) {
    D2G_RETURN_IF_ERROR(common::Annotate(ResolvePaths(".", request.mutable_spec()), "--set"));
  }
  if (flags.overwrite) request.mutable_spec()->set_overwrite(true);
  request.set_request_id(flags.request_id.empty() ? RandomRequestId() : flags.request_id);
  const absl::StatusOr<common::PromptLines> prompts = ReadPrompts(request.mutable_spec());
  if (!prompts.ok()) return common::Annotate(prompts.status(), flags.file);
  request.set_validate_only(flags.validate_only);
  D2G_ASSIGN_OR_RETURN(const auto link, CoordinatorLink::Open(flags.coordinator));
  const absl::StatusOr<Job> job = Create(*link, request, *prompts);
  if (!job.ok()) return InFileTerms(job.status(), flags.file);
  if (flags.validate_only) {
    std::printf("%s is a valid job\n", flags.file.c_str());
    return kExitOk;
  }
  std::printf("%s\n", common::WithoutControls(job->name()).c_str());
  std::fflush(stdout);
  return flags.watch ? WatchUntilEnd(*link, job->name(), WatchOptions{}) : kExitOk;
}

}  // namespace

void AddSubmit(CLI::App& app, Action* action) {
  auto flags = std::make_shared<SubmitFlags>();
  CLI::App* submit = app.add_subcommand("submit", "Submit a job file (YAML or JSON)");
  auto* file = submit->add_option("FILE", flags->file, "The job file");
  submit->add_flag("--help-spec", flags->help_spec,
                   "Print a job file with every field, its meaning, limits and default");
  AddCoordinatorFlags(submit, &flags->coordinator);
  submit->add_option("--set", flags->set, "FIELD=VALUE over the file, as in train.steps=100")
      ->allow_extra_args(false);
  submit->add_option("--request-id", flags->request_id,
                     "The same id with the same file gives the same job; default: a new one");
  submit->add_flag("--overwrite", flags->overwrite,
                   "Take output_dir over from a job that has ended; its files are set aside");
  submit->add_flag("--validate-only", flags->validate_only, "Only check; nothing is stored");
  submit->add_flag("--watch", flags->watch, "Then follow the job until it ends");
  submit->callback([flags, file, action] {
    if (!flags->help_spec && file->count() == 0) throw CLI::RequiredError("FILE");
    *action = [flags] { return Submit(*flags); };
  });
}

}  // namespace d2g::cli
