// A job whose every task fails does not keep the workers from other jobs, and a job whose input
// can never work ends at once.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/test_cluster.h"
#include "tests/testing/test_job.h"
#include "tests/testing/torch/tiny_teacher.h"
#include "tests/testing/wait.h"

namespace d2g {
namespace {

using ::d2g::coordinator::v1::Job;
using ::d2g::coordinator::v1::JobSpec;
using ::d2g::testing::IsOk;
using ::d2g::testing::Role;
using ::d2g::testing::TestCluster;
using ::d2g::testing::WaitFor;
using ::testing::HasSubstr;

class FailingJobTest : public ::testing::Test {
 protected:
  FailingJobTest() : cluster_(Options()) { testing::WriteTinyTeacher(Folder("teacher")); }

  static testing::TestClusterOptions Options() {
    testing::TestClusterOptions options;
    options.shards = 1;
    options.workers = 1;
    return options;
  }
  std::string Folder(const std::string& name) const { return cluster_.dir().File(name); }
  // A teacher that gives NaN for whatever it is asked, which its headers do not show.
  void WriteTeacherOfNaN(const std::string& name) {
    testing::WriteTinyTeacher(Folder(name), /*seed=*/2);
    std::fstream file(Folder(name) + "/text_encoder/model.safetensors",
                      std::ios::in | std::ios::out | std::ios::binary);
    uint64_t header_bytes = 0;
    file.read(reinterpret_cast<char*>(&header_bytes), sizeof(header_bytes));
    std::string header(header_bytes, ' ');
    file.read(header.data(), static_cast<std::streamsize>(header.size()));
    const auto offsets = nlohmann::json::parse(header)
                             .at("text_model.embeddings.token_embedding.weight")
                             .at("data_offsets")
                             .get<std::vector<int64_t>>();
    file.seekp(static_cast<std::streamoff>(sizeof(header_bytes) + header.size()) + offsets[0]);
    const std::string bytes(static_cast<size_t>(offsets[1] - offsets[0]), '\xff');
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    ASSERT_TRUE(file.flush());
  }
  JobSpec Spec(const std::string& teacher, const std::string& output, int64_t triples) const {
    JobSpec spec = testing::MakeTestJob(Folder(teacher), Folder(output), triples, /*steps=*/10);
    spec.mutable_train()->mutable_gan()->clear_start_step();
    return spec;
  }
  Job Get(const std::string& name) {
    coordinator::v1::GetJobRequest request;
    request.set_name(name);
    const auto job = cluster_.client().GetJob(request, absl::Now() + absl::Minutes(1));
    return job.ok() ? *job : Job();
  }
  int32_t MostFailures(const std::string& job) {
    coordinator::v1::ListTasksRequest request;
    request.set_parent(job);
    const auto tasks = cluster_.client().ListTasks(request, absl::Now() + absl::Minutes(1));
    int32_t most = 0;
    if (!tasks.ok()) return most;
    for (const auto& task : tasks->tasks()) most = std::max(most, task.failures());
    return most;
  }

  TestCluster cluster_;
};

TEST_F(FailingJobTest, OtherJobsGoOnBesideIt) {
  testing::WriteTinyTeacher(Folder("broken"), /*seed=*/2);
  ASSERT_THAT(cluster_.Start(), IsOk()) << cluster_.Logs();
  cluster_.Kill(Role::kWorker);
  JobSpec spec = Spec("broken", "bad", /*triples=*/1024);
  spec.mutable_simulate()->set_task_size(16);
  ASSERT_OK_AND_ASSIGN(const Job bad, cluster_.Submit(spec, testing::kTestPrompts));
  // Another teacher than the one that was submitted: every task fails, on any node.
  testing::WriteTinyTeacher(Folder("broken"), /*seed=*/3);
  ASSERT_THAT(cluster_.Restart(Role::kWorker), IsOk()) << cluster_.Logs();
  ASSERT_TRUE(WaitFor([&] { return MostFailures(bad.name()) >= 2; }, absl::Minutes(1)))
      << cluster_.Logs();
  ASSERT_OK_AND_ASSIGN(const Job good,
                       cluster_.Submit(Spec("teacher", "good", 256), testing::kTestPrompts));
  ASSERT_OK_AND_ASSIGN(const Job done, cluster_.WaitForEnd(good.name(), absl::Seconds(30)));
  EXPECT_EQ(done.state(), Job::STATE_SUCCEEDED) << done.DebugString() << cluster_.Logs();
  const Job still = Get(bad.name());
  EXPECT_EQ(still.state(), Job::STATE_RUNNING);
  EXPECT_THAT(still.health(), ::testing::Contains(HasSubstr("has the digest")));
}

TEST_F(FailingJobTest, WhatCanNeverWorkEndsItAtOnce) {
  WriteTeacherOfNaN("teacher");
  ASSERT_THAT(cluster_.Start(), IsOk()) << cluster_.Logs();
  ASSERT_OK_AND_ASSIGN(const Job job,
                       cluster_.Submit(Spec("teacher", "out", 256), testing::kTestPrompts));
  ASSERT_OK_AND_ASSIGN(const Job ended, cluster_.WaitForEnd(job.name(), absl::Minutes(1)));
  EXPECT_EQ(ended.state(), Job::STATE_FAILED) << ended.DebugString() << cluster_.Logs();
  EXPECT_THAT(ended.error(), HasSubstr("does not hold as a finite number"));
}

}  // namespace
}  // namespace d2g
