#include "cli/local_cluster.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>

namespace d2g::cli {
namespace {

class NoAddresses final : public AddressBook {
 public:
  std::string GrpcAddress(const std::string&) const override { return "127.0.0.1:1"; }
};

// The value after a flag that a member is started with; zero when it is not given.
absl::Duration FlagOf(const MemberSpec& member, const std::string& flag) {
  const auto argv = member.argv({}, "ports", NoAddresses());
  const auto at = std::find(argv.begin(), argv.end(), flag);
  absl::Duration value = absl::ZeroDuration();
  if (at != argv.end() && at + 1 != argv.end()) absl::ParseDuration(*(at + 1), &value);
  return value;
}

TEST(LocalCluster, KillsNobodyBeforeItsOwnGraceIsOver) {
  int checked = 0;
  for (const MemberSpec& member : LocalClusterMembers({.workers = 1})) {
    const std::string program = member.name.substr(0, member.name.find('-'));
    if (program != "worker" && program != "trainer") continue;
    const absl::Duration own = FlagOf(member, program == "worker" ? "--grace" : "--leave-timeout");
    EXPECT_GT(own, absl::ZeroDuration()) << member.name;
    EXPECT_GT(member.grace, own) << member.name;
    ++checked;
  }
  EXPECT_EQ(checked, 2);
}

TEST(LocalCluster, StopsWithinTheTimeThatDownWaits) {
  std::map<int, absl::Duration> longest;
  for (const MemberSpec& member : LocalClusterMembers({})) {
    longest[member.stage] = std::max(longest[member.stage], member.grace);
  }
  absl::Duration sum = absl::ZeroDuration();
  for (const auto& [stage, grace] : longest) sum += grace;
  EXPECT_LT(sum, kLocalStopTimeout);
}

TEST(LocalCluster, WhoReadsOrWritesForJobsIsToldWhere) {
  LocalClusterOptions options{.data_dir = "/data", .shards = 2, .workers = 1};
  options.paths.model_roots = {"/models"};
  options.paths.output_roots = {"/jobs"};
  int told = 0;
  for (const MemberSpec& member : LocalClusterMembers(options)) {
    const auto argv = member.argv({}, "ports", NoAddresses());
    if (member.name.starts_with("store-")) continue;
    for (const auto& [flag, folder] :
         {std::pair("--model-root", "/models"), std::pair("--output-root", "/jobs"),
          std::pair("--keep-out", "/data/coordinator"), std::pair("--keep-out", "/data/store-1")}) {
      const std::string pair[] = {flag, folder};
      EXPECT_NE(std::search(argv.begin(), argv.end(), std::begin(pair), std::end(pair)), argv.end())
          << member.name << " " << flag << " " << folder;
    }
    ++told;
  }
  EXPECT_EQ(told, 3);
}

}  // namespace
}  // namespace d2g::cli
