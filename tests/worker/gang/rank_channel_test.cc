#include "worker/gang/rank_channel.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <limits>

namespace d2g::gang {
namespace {

using ::testing::HasSubstr;

TEST(RankLaunchTest, RoundTrips) {
  RankLaunch launch;
  launch.assignment.set_job("jobs/a");
  launch.assignment.set_generation(7);
  launch.assignment.set_world_size(2);
  launch.assignment.set_rendezvous("127.0.0.1:1234");
  launch.assignment.mutable_work()->mutable_recipe()->set_seed(18446744073709551615u);
  launch.assignment.mutable_work()->mutable_spec()->mutable_train()->set_learning_rate(5e-4);
  launch.coordinator = "127.0.0.1:5";
  launch.advertise_host = "10.0.0.1";
  launch.device = "cuda";
  launch.threads = 3;
  launch.agent = "agent";
  launch.node = "node";
  launch.paths = {{"/models"}, {"/jobs", "/more"}, {"/data"}};
  launch.log_format = "json";
  const auto text = FormatRankLaunch(launch);
  ASSERT_TRUE(text.ok()) << text.status();
  const auto back = ParseRankLaunch(*text);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->assignment.SerializeAsString(), launch.assignment.SerializeAsString());
  EXPECT_EQ(back->coordinator, launch.coordinator);
  EXPECT_EQ(back->advertise_host, launch.advertise_host);
  EXPECT_EQ(back->device, launch.device);
  EXPECT_EQ(back->threads, launch.threads);
  EXPECT_EQ(back->agent, launch.agent);
  EXPECT_EQ(back->node, launch.node);
  EXPECT_EQ(back->paths.model_roots, launch.paths.model_roots);
  EXPECT_EQ(back->paths.output_roots, launch.paths.output_roots);
  EXPECT_EQ(back->paths.keep_out, launch.paths.keep_out);
  EXPECT_EQ(back->log_format, launch.log_format);
}

TEST(RankLaunchTest, RefusesWhatIsMalformed) {
  EXPECT_THAT(ParseRankLaunch("[]").status().message(), HasSubstr("not a JSON object"));
  EXPECT_THAT(ParseRankLaunch("{}").status().message(), HasSubstr("\"assignment\" is missing"));
  EXPECT_THAT(ParseRankLaunch(R"({"assignment":{"nonsense":1}})").status().message(),
              HasSubstr("nonsense"));
  EXPECT_THAT(ParseRankLaunch(R"({"assignment":{},"threads":0})").status().message(),
              HasSubstr("\"threads\" is 0"));
  EXPECT_THAT(ParseRankLaunch(R"({"assignment":{},"device":4})").status().message(),
              HasSubstr("\"device\" is not a string"));
  EXPECT_THAT(ParseRankLaunch(R"({"assignment":{},"model_roots":["/a",4]})").status().message(),
              HasSubstr("\"model_roots\" is not a list of strings"));
}

TEST(RankReportTest, RoundTripsWithNanAsNull) {
  RankReport report;
  report.phase = kPhaseStep;
  report.step = 12;
  report.progress = 3;
  report.metrics = {{"loss", 0.5}, {"bad", std::numeric_limits<double>::quiet_NaN()}};
  const std::string line = FormatRankReport(report);
  EXPECT_EQ(line.find('\n'), std::string::npos);
  const auto back = ParseRankReport(line);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_FALSE(back->rendezvous.has_value());
  EXPECT_EQ(back->phase, kPhaseStep);
  EXPECT_EQ(back->step, 12);
  EXPECT_EQ(back->progress, 3);
  EXPECT_EQ(back->metrics.at("loss"), 0.5);
  EXPECT_TRUE(std::isnan(back->metrics.at("bad")));
}

TEST(RankReportTest, RefusesWhatIsMalformed) {
  EXPECT_FALSE(ParseRankReport("step 12").ok());
  EXPECT_THAT(ParseRankReport(R"({"step":"x"})").status().message(), HasSubstr("step"));
  EXPECT_THAT(ParseRankReport(R"({"metrics":{"loss":"x"}})").status().message(), HasSubstr("loss"));
}

TEST(RankStatusWriterTest, WritesLines) {
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  RankStatusWriter writer(fds[1]);
  ASSERT_TRUE(writer.Write({.rendezvous = "127.0.0.1:7"}).ok());
  char buffer[256] = {};
  ASSERT_GT(read(fds[0], buffer, sizeof(buffer) - 1), 0);
  EXPECT_STREQ(buffer, "{\"rendezvous\":\"127.0.0.1:7\"}\n");
  close(fds[0]);
  close(fds[1]);
  EXPECT_TRUE(RankStatusWriter(-1).Write({}).ok());
}

}  // namespace
}  // namespace d2g::gang
