// The real d2g-coordinator: killed at random moments under load, told to stop, started badly.
#include <csignal>
#include <fstream>
#include <mutex>
#include <random>
#include <set>
#include <thread>

#include "absl/synchronization/notification.h"
#include "coordinator/client/client.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/common/port_file.h"
#include "tests/coordinator/fake_shard.h"
#include "tests/coordinator/input_folders.h"
#include "tests/testing/process.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/tmpfs.h"
#include "tests/testing/wait.h"

namespace d2g::coordinator {
namespace {

using ::d2g::testing::IsOk;
using ::d2g::testing::Process;
using ::d2g::testing::RunProcess;
using ::d2g::testing::TempDir;
using ::d2g::testing::WaitFor;
using ::testing::HasSubstr;

class ProgramTest : public ::testing::Test {
 protected:
  // Starts the binary on data_ at the address of its first start and waits until it listens.
  void Start() {
    std::filesystem::remove(dir_.File("ports"));
    process_ = std::make_unique<Process>(std::vector<std::string>{
        "d2g-coordinator", "--data-dir", data_, "--shards", "2", "--listen", listen_, "--port-file",
        dir_.File("ports"), "--lease-duration", "5s", "--gang-settle", "100ms"});
    ASSERT_TRUE(WaitFor([&] { return common::ReadPortFile(dir_.File("ports")).ok(); }))
        << process_->Output();
    listen_ = absl::StrCat("127.0.0.1:", common::ReadPortFile(dir_.File("ports"))->grpc);
  }
  void Kill() {
    process_->Signal(SIGKILL);
    EXPECT_EQ(process_->Wait().code, -SIGKILL);
  }

  TempDir dir_;
  std::string data_ = dir_.File("data");
  std::string listen_ = "127.0.0.1:0";
  std::unique_ptr<Process> process_;
};

TEST_F(ProgramTest, NothingAcknowledgedIsLostWhenKilledUnderLoad) {
  constexpr int64_t kTriples = 4096;
  constexpr int kKills = 5;
  Start();
  const InputFolders inputs;
  const auto far = [] { return absl::Now() + absl::Seconds(60); };
  CoordinatorClient client(listen_);
  v1::CreateJobRequest create;
  *create.mutable_spec() = SmallSpec();
  inputs.Fill(create.mutable_spec());
  create.mutable_spec()->mutable_simulate()->set_triples(kTriples);
  create.set_request_id("the only one");
  {
    const auto list = client.UploadPromptList("a\nb\n", far());
    ASSERT_THAT(list, IsOk());
    create.mutable_spec()->mutable_prompts()->set_digest(list->digest());
  }
  ASSERT_OK_AND_ASSIGN(const v1::Job job, client.CreateJob(create, far()));

  FakeShard shard0(listen_, 0);
  FakeShard shard1(listen_, 1);
  FakeShard* const shards[] = {&shard0, &shard1};
  std::mutex mutex;
  std::set<int64_t> acknowledged;  // the ledger: indices whose completion was acknowledged
  std::set<int64_t> lease_ids;
  std::atomic<bool> done{false};
  std::vector<std::thread> workers;
  for (int w = 0; w < 3; ++w) {
    workers.emplace_back([&, w] {
      CoordinatorClient mine(listen_);
      v1::LeaseTaskRequest request;
      *request.mutable_worker() = Harness::Worker(absl::StrCat("w", w));
      request.add_kinds(v1::TASK_KIND_SIMULATE);
      while (!done) {
        std::set<int64_t> before;
        {
          std::lock_guard lock(mutex);
          before = acknowledged;
        }
        const auto leased = mine.LeaseTask(request, far());
        ASSERT_THAT(leased, IsOk());
        if (!leased->has_task()) {
          absl::SleepFor(absl::Milliseconds(20));
          continue;
        }
        const auto& work = leased->task().simulate();
        v1::CompleteTaskRequest complete;
        complete.set_task(leased->task().name());
        complete.set_lease_id(leased->task().lease_id());
        *complete.mutable_worker() = request.worker();
        *complete.mutable_simulate() =
            shards[work.shard().shard()]->Seal(work.dataset(), work.range());
        ASSERT_THAT(mine.CompleteTask(complete, far()), IsOk());
        std::lock_guard lock(mutex);
        lease_ids.insert(leased->task().lease_id());
        for (int64_t n = work.range().begin(); n < work.range().end(); ++n) {
          EXPECT_FALSE(before.contains(n)) << n << " was simulated again after its acknowledgement";
          acknowledged.insert(n);
        }
      }
    });
  }
  std::mt19937 random(20240229);
  int kills = 0;
  for (; kills < kKills; ++kills) {
    size_t at = 0;
    {
      std::lock_guard lock(mutex);
      at = acknowledged.size();
    }
    // Kill while work is going on.
    ASSERT_TRUE(WaitFor(
        [&] {
          std::lock_guard lock(mutex);
          return acknowledged.size() > at + 100;
        },
        absl::Seconds(60)));
    absl::SleepFor(absl::Milliseconds(random() % 30));
    Kill();
    Start();
  }
  v1::GetJobRequest get;
  get.set_name(job.name());
  v1::Job now;
  EXPECT_TRUE(WaitFor(
      [&] {
        const auto got = client.GetJob(get, far());
        EXPECT_THAT(got, IsOk());
        now = *got;
        return now.stages(0).done() == kTriples;
      },
      absl::Seconds(60)));
  done = true;
  for (std::thread& worker : workers) worker.join();
  EXPECT_EQ(acknowledged.size(), static_cast<size_t>(kTriples));
  EXPECT_EQ(shard0.sealed_count(job.dataset()) + shard1.sealed_count(job.dataset()), kTriples);
  EXPECT_EQ(client.incarnation(), static_cast<uint64_t>(kKills) + 1);
  ASSERT_OK_AND_ASSIGN(const v1::Job same, client.CreateJob(create, far()));
  EXPECT_EQ(same.name(), job.name()) << "the request id was lost";
  EXPECT_GE(lease_ids.size(), static_cast<size_t>(kTriples / 16));
}

TEST_F(ProgramTest, StopsCleanlyOnSigterm) {
  Start();
  const InputFolders inputs;
  CoordinatorClient client(listen_);
  v1::CreateJobRequest create;
  *create.mutable_spec() = SmallSpec();
  inputs.Fill(create.mutable_spec());
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  ASSERT_OK_AND_ASSIGN(const auto list, client.UploadPromptList("a\nb\n", deadline));
  create.mutable_spec()->mutable_prompts()->set_digest(list.digest());
  ASSERT_OK_AND_ASSIGN(const v1::Job job, client.CreateJob(create, deadline));
  // A stream that is open must not hold up the stop.
  absl::Notification watching;
  std::thread watcher([&] {
    const auto watched = client.WatchJob(job.name(), absl::Seconds(1), [&](const v1::Job&) {
      if (!watching.HasBeenNotified()) watching.Notify();
      return true;
    });
    EXPECT_FALSE(watched.ok());
  });
  EXPECT_TRUE(watching.WaitForNotificationWithTimeout(absl::Seconds(20)));
  const absl::Time start = absl::Now();
  process_->Signal(SIGTERM);
  const auto ended = process_->Wait(absl::Seconds(10));
  EXPECT_EQ(ended.code, 0) << ended.output;
  EXPECT_LT(absl::Now() - start, absl::Seconds(5)) << "the grace is 2 s";
  watcher.join();
}

TEST_F(ProgramTest, AnUploadTakesNotManyTimesItsSizeInMemory) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer keeps memory of its own";
#endif
  constexpr int64_t kLines = 6'000'000;
  Start();
  // The most that was ever resident.
  const auto peak_kib = [this] {
    std::ifstream status(absl::StrCat("/proc/", process_->pid(), "/status"));
    for (std::string word; status >> word;) {
      if (word == "VmHWM:") {
        int64_t kib = 0;
        status >> kib;
        return kib;
      }
    }
    return int64_t{0};
  };
  const int64_t before = peak_kib();
  ASSERT_GT(before, 0);
  std::string text;
  for (int64_t i = 0; i < kLines; ++i) text += "ab\n";
  CoordinatorClient client(listen_);
  ASSERT_THAT(client.UploadPromptList(text, absl::Now() + absl::Seconds(60)), IsOk());
  const int64_t grown = (peak_kib() - before) * 1024;
  RecordProperty("grown_by_bytes", std::to_string(grown));
  // The list itself, the database's memory for what it writes, and calls in flight.
  EXPECT_LT(grown, 5 * static_cast<int64_t>(text.size()));
}

TEST_F(ProgramTest, BadStartsHaveOneClearErrorAndAnExitCode) {
  Start();
  const auto locked = RunProcess({"d2g-coordinator", "--data-dir", data_, "--shards", "2"});
  EXPECT_EQ(locked.code, 3);
  EXPECT_THAT(locked.output, HasSubstr(data_));
  EXPECT_THAT(locked.output, HasSubstr("in use by another process"));
  const auto port =
      RunProcess({"d2g-coordinator", "--data-dir", dir_.File("new"), "--listen", listen_});
  EXPECT_EQ(port.code, 3) << port.output;
  EXPECT_THAT(port.output, HasSubstr(listen_));
  EXPECT_FALSE(std::filesystem::exists(dir_.File("new")));
  EXPECT_EQ(RunProcess({"d2g-coordinator"}).code, 2) << "--data-dir is required";
  EXPECT_EQ(
      RunProcess({"d2g-coordinator", "--data-dir", dir_.File("new"), "--lease-duration", "fast"})
          .code,
      2);
  Kill();
  const auto shards = RunProcess({"d2g-coordinator", "--data-dir", data_, "--shards", "5"});
  EXPECT_EQ(shards.code, 3);
  EXPECT_THAT(shards.output, HasSubstr("2 shards"));
}

TEST_F(ProgramTest, AReadOnlyDiskIsNamed) {
  d2g::testing::Tmpfs volume("32m");
  if (!volume.mounted()) GTEST_SKIP() << "mounting needs root";
  data_ = volume.path() + "/data";
  Start();
  process_->Signal(SIGTERM);
  EXPECT_EQ(process_->Wait().code, 0);
  ASSERT_TRUE(volume.MakeReadOnly());
  for (const std::string& folder : {data_, volume.path() + "/new"}) {
    const auto refused = RunProcess({"d2g-coordinator", "--data-dir", folder, "--shards", "2"});
    EXPECT_EQ(refused.code, 3);
    EXPECT_THAT(refused.output, HasSubstr(folder));
    EXPECT_THAT(refused.output, HasSubstr("Read-only file system"));
  }
}

TEST_F(ProgramTest, AFullDiskEndsTheProcessAndLosesNothing) {
  d2g::testing::Tmpfs volume("64m");
  if (!volume.mounted()) GTEST_SKIP() << "mounting needs root";
  data_ = volume.path() + "/data";
  Start();
  CoordinatorClient client(listen_);
  const InputFolders inputs;
  const auto soon = [] { return absl::Now() + absl::Seconds(5); };
  ASSERT_OK_AND_ASSIGN(const auto list, client.UploadPromptList("a\nb\n", soon()));
  v1::CreateJobRequest create;
  *create.mutable_spec() = SmallSpec();
  inputs.Fill(create.mutable_spec());
  create.mutable_spec()->mutable_prompts()->set_digest(list.digest());
  ASSERT_OK_AND_ASSIGN(const v1::Job job, client.CreateJob(create, soon()));

  const std::string ballast = volume.path() + "/ballast";
  {
    std::ofstream file(ballast, std::ios::binary);
    const std::string chunk(1 << 16, 'x');
    while (file.write(chunk.data(), static_cast<std::streamsize>(chunk.size())).flush()) {
    }
  }
  // What cannot be made durable is not acknowledged, and the process ends saying why.
  v1::SetDesiredStateRequest request;
  request.set_name(job.name());
  absl::Status refused;
  for (int i = 0; i < 100'000 && refused.ok(); ++i) {
    request.set_desired_state(i % 2 == 0 ? v1::Job::DESIRED_STATE_PAUSED
                                         : v1::Job::DESIRED_STATE_RUNNING);
    refused = client.SetDesiredState(request, absl::Now()).status();
  }
  EXPECT_FALSE(refused.ok());
  const auto ended = process_->Wait();
  EXPECT_EQ(ended.code, 1);
  EXPECT_THAT(ended.output, HasSubstr("cannot write its rows"));
  EXPECT_THAT(ended.output, HasSubstr("No space left on device"));

  std::filesystem::remove(ballast);
  Start();
  v1::GetJobRequest get;
  get.set_name(job.name());
  ASSERT_OK_AND_ASSIGN(const v1::Job back, client.GetJob(get, soon()));
  EXPECT_EQ(back.spec().SerializeAsString(), job.spec().SerializeAsString());
}

}  // namespace
}  // namespace d2g::coordinator
