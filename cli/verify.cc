// d2g verify: every triple of a dataset is there once and matches its checksum.
#include <cstdio>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cli/command.h"
#include "cli/coordinator_link.h"
#include "cli/exit_code.h"
#include "cli/format.h"
#include "cli/shard_audit.h"
#include "services/common/deadline.h"
#include "services/common/status_macros.h"
#include "services/common/utf8.h"
#include "services/store/client/triple_client.h"

namespace d2g::cli {
namespace {

// Reading a whole shard takes long; at 100 MB/s this is 2 TB.
constexpr absl::Duration kVerifyTimeout = absl::Hours(6);
constexpr absl::Duration kCallTimeout = absl::Seconds(30);

struct VerifyFlags {
  CoordinatorFlags coordinator;
  std::string name;
};

absl::StatusOr<ShardReport> VerifyShard(const common::v1::ShardAddress& address,
                                        const std::string& dataset) {
  store::TripleClient client(address);
  ShardReport report{.shard = address.shard()};
  const auto ranges = client.ListSealedRanges(dataset, common::DeadlineIn(kCallTimeout));
  // A shard hears of a dataset with its first triple.
  if (absl::IsNotFound(ranges.status())) return report;
  if (!ranges.ok()) return ranges.status();
  report.sealed.assign(ranges->ranges().begin(), ranges->ranges().end());
  D2G_ASSIGN_OR_RETURN(
      const auto summary,
      client.VerifyDataset(
          dataset,
          [&report](const store::v1::VerifyDatasetResponse::Finding& finding) {
            report.bad.push_back(absl::StrCat(finding.index(), ": ", finding.reason()));
          },
          common::DeadlineIn(kVerifyTimeout)));
  report.present = summary.present();
  report.checked = summary.checked();
  return report;
}

absl::StatusOr<int> Verify(const VerifyFlags& flags) {
  D2G_ASSIGN_OR_RETURN(const auto link, CoordinatorLink::Open(flags.coordinator));
  std::string name = flags.name;
  int64_t wanted = 0;
  if (!absl::StartsWith(name, "datasets/")) {
    D2G_ASSIGN_OR_RETURN(const auto job, link->GetJob(JobName(name)));
    name = job.dataset();
    wanted = job.spec().simulate().triples();
  }
  D2G_ASSIGN_OR_RETURN(const auto dataset, link->GetDataset(name));
  const int expected = dataset.recipe().shard_count();
  if (dataset.shards_size() != expected) {
    return absl::UnavailableError(absl::StrCat(dataset.shards_size(), " of ", expected,
                                               " shards of ", name,
                                               " answer; bring the others up and verify again"));
  }
  std::vector<ShardReport> reports;
  for (const auto& address : dataset.shards()) {
    absl::StatusOr<ShardReport> report = VerifyShard(address, name);
    if (!report.ok()) return ShownStatus(report.status());
    reports.push_back(*std::move(report));
  }
  const AuditResult result = AuditShards(dataset.recipe(), reports, wanted);
  if (result.sealed == 0 && result.present == 0) {
    std::printf("%s: nothing simulated yet\n", common::WithoutControls(name).c_str());
    return wanted > 0 ? kExitFailure : kExitOk;
  }
  for (const std::string& problem : result.problems) {
    std::printf("%s\n", common::WithoutControls(problem).c_str());
  }
  std::printf("%s: %s triples sealed on %d shards, %s present, %s checksums recomputed%s\n",
              common::WithoutControls(name).c_str(), CountText(result.sealed).c_str(), expected,
              CountText(result.present).c_str(), CountText(result.checked).c_str(),
              result.problems.empty()
                  ? (wanted > 0 ? "; every triple of the job is there exactly once" : "; all good")
                  : "; see the problems above");
  return result.problems.empty() ? kExitOk : kExitFailure;
}

}  // namespace

void AddVerify(CLI::App& app, Action* action) {
  auto flags = std::make_shared<VerifyFlags>();
  CLI::App* verify =
      app.add_subcommand("verify", "Check that a job's or dataset's triples are all there, once");
  verify->add_option("NAME", flags->name, "jobs/... (or its id), or datasets/...")->required();
  AddCoordinatorFlags(verify, &flags->coordinator);
  verify->callback([flags, action] { *action = [flags] { return Verify(*flags); }; });
}

}  // namespace d2g::cli
