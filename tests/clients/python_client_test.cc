// A client written in Python from the protos alone works against a real coordinator.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/common/port_file.h"
#include "tests/testing/process.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_folder.h"
#include "tests/testing/wait.h"

namespace d2g {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::Process;
using testing::Python;
using testing::RunProcess;
using testing::SourcePath;
using testing::WaitFor;

TEST(PythonClient, SubmitsAndWatches) {
  const testing::TempDir dir;
  testing::WriteTinyFolder(dir.File("teacher"));
  testing::WriteText(dir.File("prompts.txt"), "a red shoe\na blue shoe\n");
  testing::WriteText(dir.File("job.json"),
                     absl::StrCat(R"({"teacher": {"path": ")", dir.File("teacher"),
                                  R"("}, "prompts": {"path": ")", dir.File("prompts.txt"),
                                  R"("}, "simulate": {"triples": "64", "blockSize": 16},
                       "train": {"steps": "10", "globalBatch": 4}, "outputDir": ")",
                                  dir.File("output"), R"("})"));
  Process coordinator({"d2g-coordinator", "--listen", "127.0.0.1:0", "--data-dir",
                       dir.File("coordinator"), "--shards", "1", "--port-file",
                       dir.File("ports.json")});
  int port = 0;
  ASSERT_TRUE(WaitFor([&] {
    const auto ports = common::ReadPortFile(dir.File("ports.json"));
    if (ports.ok()) port = ports->grpc;
    return ports.ok();
  })) << coordinator.Output();
  const std::string address = absl::StrCat("127.0.0.1:", port);

  // Stubs are not needed to find out what can be called.
  const auto services = RunProcess(
      {Python(), SourcePath("tests/clients/list_services.py"), address}, absl::Seconds(60));
  EXPECT_EQ(services.code, 0) << services.output;
  EXPECT_THAT(services.output,
              AllOf(HasSubstr("d2g.coordinator.v1.JobService\n"),
                    HasSubstr("  CreateJob(d2g.coordinator.v1.CreateJobRequest)\n"),
                    HasSubstr("grpc.health.v1.Health\n")));

  Process client({Python(), SourcePath("tests/clients/submit_and_watch.py"), "--protos",
                  SourcePath("proto"), "--coordinator", address, "--request-id", "python",
                  dir.File("job.json")});
  ASSERT_TRUE(WaitFor([&] { return client.Output().find("STATE_RUNNING") != std::string::npos; },
                      absl::Seconds(60)))
      << client.Output();
  EXPECT_THAT(client.Output(), AllOf(HasSubstr("submitted jobs/"), HasSubstr("with 2 prompts"),
                                     HasSubstr("0/64 triples")));
  const std::string output = client.Output();
  const size_t begin = output.find("jobs/");
  const std::string job = output.substr(begin, output.find(' ', begin) - begin);
  EXPECT_EQ(RunProcess({"d2g", "cancel", job, "--coordinator", address}).code, 0);
  const auto result = client.Wait();
  EXPECT_EQ(result.code, 5) << result.output;
  EXPECT_THAT(result.output, HasSubstr("ended as STATE_CANCELLED"));
}

}  // namespace
}  // namespace d2g
