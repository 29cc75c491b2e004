// The loop of a gang of one, in this process: its disk, coordinator and clock are the test's.
#include "worker/rank/training_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <ATen/ATen.h>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "services/common/clock.h"
#include "services/spec/normal_spec.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/wait.h"
#include "tests/worker/distil/small_unet.h"
#include "tests/worker/rank/fake_training_data.h"
#include "worker/distil/regression.h"

namespace d2g::rank {
namespace {

using ::d2g::testing::IsOk;
using ::d2g::testing::StatusIs;
using ::d2g::testing::TempDir;
using ::d2g::testing::WaitFor;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

using coordinator::v1::CommitCheckpointRequest;
using coordinator::v1::CommitCheckpointResponse;

class GroupOfOne : public collective::ProcessGroup {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  at::Device device() const override { return at::kCPU; }
  std::unique_ptr<collective::PendingOperation> StartAllReduceSum(const at::Tensor&) override {
    struct Done : collective::PendingOperation {
      void Wait() override {}
    };
    return std::make_unique<Done>();
  }
  void Broadcast(const at::Tensor&, int) override {}
  void Barrier() override {}
};

// The reports of a rank, read from its pipe.
class Reports {
 public:
  Reports() {
    EXPECT_EQ(pipe(ends_), 0);
    thread_ = std::thread([this] { Read(); });
  }
  ~Reports() {
    Close();
    close(ends_[0]);
  }
  int fd() const { return ends_[1]; }
  // Ends the reading.
  void Close() {
    if (!thread_.joinable()) return;
    close(ends_[1]);
    thread_.join();
  }
  std::vector<gang::RankReport> all() const {
    absl::MutexLock lock(&mutex_);
    return reports_;
  }
  std::vector<std::string> phases() const {
    std::vector<std::string> phases;
    for (const gang::RankReport& report : all()) phases.push_back(report.phase.value_or(""));
    return phases;
  }
  // Whether the latest `count` are all of `phase`.
  bool LastAre(const std::string& phase, size_t count) const {
    const std::vector<std::string> all = phases();
    return all.size() >= count && std::all_of(all.end() - static_cast<ptrdiff_t>(count), all.end(),
                                              [&](const std::string& one) { return one == phase; });
  }

 private:
  void Read() {
    std::string line;
    for (char c; read(ends_[0], &c, 1) == 1;) {
      if (c != '\n') {
        line += c;
        continue;
      }
      const auto report = gang::ParseRankReport(line);
      ASSERT_THAT(report, IsOk());
      absl::MutexLock lock(&mutex_);
      reports_.push_back(*report);
      line.clear();
    }
  }

  int ends_[2];
  mutable absl::Mutex mutex_;
  std::vector<gang::RankReport> reports_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

class TrainingLoopTest : public ::testing::Test {
 protected:
  TrainingLoopTest() : recipe_(Recipe()), data_(recipe_) {
    data_.SetSealed({dataset::IndexSet({{0, 128}})});
    options_.train.set_steps(1000);
    options_.train.set_global_batch(8);
    options_.train.set_checkpoint_every(2);
    EXPECT_THAT(spec::NormalizeTrainSpec(&options_.train), ::testing::IsEmpty());
    options_.recipe = recipe_;
    options_.state.spec_json = "{}";
    options_.wait_slice = absl::Milliseconds(5);
    options_.clock = &clock_;
  }

  static common::v1::DatasetRecipe Recipe() {
    common::v1::DatasetRecipe recipe = SmallRecipe();
    recipe.set_latent_channels(4);
    recipe.set_latent_height(8);
    recipe.set_latent_width(8);
    return recipe;
  }

  // Runs until the loop ends. Another thread is to see to that.
  absl::StatusOr<TrainingEnd> Run() {
    BatchReaderOptions reading;
    reading.train = options_.train;
    reading.recipe = recipe_;
    reading.batches = options_.train.steps();
    reading.prompt_class = [](int64_t prompt) { return prompt; };
    BatchReader reader(reading, &data_);
    const auto encode = [](const std::vector<std::string>& prompts) {
      return at::ones({static_cast<int64_t>(prompts.size()), 3, 12});
    };
    TextCache texts(encode, std::vector<std::string>(10, "a picture"), 1 << 20);
    model::SchedulerConfig schedule;
    distil::TrainStep step(
        options_.train, distil::SmallUNet(),
        distil::OneStepGenerator(model::DdimScheduler(schedule), std::nullopt, "x0"),
        {distil::MakePseudoHuberTerm(1, 0.03)}, at::kCPU);
    const auto audit = AuditLog::Open(dir_.path(), 1, 0);
    EXPECT_THAT(audit, IsOk());
    GroupOfOne group;
    gang::RankStatusWriter status(reports_.fd());
    CheckpointWriter writer(
        "jobs/j", dir_.path(),
        [this](const CommitCheckpointRequest& request) -> absl::StatusOr<CommitCheckpointResponse> {
          if (coordinator_away_) return absl::UnavailableError("away");
          absl::MutexLock lock(&mutex_);
          committed_.push_back(request.step());
          return CommitCheckpointResponse();
        },
        [this](const auto&, const CheckpointState& state, const auto&,
               const auto&) -> absl::StatusOr<WrittenCheckpoint> {
          if (state.step >= hangs_from_step_) disk_.WaitForNotification();
          return WrittenCheckpoint{"path", "digest"};
        });
    TrainingLoop loop(options_, {.group = &group,
                                 .reader = &reader,
                                 .texts = &texts,
                                 .step = &step,
                                 .checkpoints = &writer,
                                 .audit = audit->get(),
                                 .status = &status,
                                 .stop = &stop_});
    return loop.Run();
  }

  std::vector<int64_t> committed() const {
    absl::MutexLock lock(&mutex_);
    return committed_;
  }
  // Step of the latest report.
  int64_t step() const {
    const auto all = reports_.all();
    return all.empty() ? 0 : all.back().step.value_or(0);
  }

  const TempDir dir_;
  const common::v1::DatasetRecipe recipe_;
  FakeTrainingData data_;
  TrainingLoopOptions options_;
  common::FakeClock clock_;
  Reports reports_;
  std::atomic<bool> stop_{false};
  std::atomic<bool> coordinator_away_{false};
  // Writes of this step and later wait for disk_.
  int64_t hangs_from_step_ = 0;
  absl::Notification disk_;
  mutable absl::Mutex mutex_;
  std::vector<int64_t> committed_ ABSL_GUARDED_BY(mutex_);
};

TEST_F(TrainingLoopTest, ASlowDiskDoesNotSpendTheTimeForTheCoordinator) {
  std::thread test([this] {
    EXPECT_TRUE(WaitFor([&] { return step() >= 5; }));
    stop_ = true;
    EXPECT_TRUE(WaitFor([&] { return reports_.LastAre(gang::kPhaseCheckpoint, 3); }));
    clock_.AdvanceTime(10 * options_.stop_commit_timeout);
    const size_t before = reports_.phases().size();
    EXPECT_TRUE(WaitFor([&] { return reports_.phases().size() >= before + 3; }));
    // The disk is to blame, and it shows.
    EXPECT_TRUE(reports_.LastAre(gang::kPhaseCheckpoint, 3));
    disk_.Notify();
  });
  EXPECT_THAT(Run(), ::d2g::testing::IsOkAndHolds(TrainingEnd::kStopped));
  test.join();
  reports_.Close();
  ASSERT_THAT(committed(), SizeIs(2));
  EXPECT_EQ(committed()[0], 2);
  EXPECT_EQ(committed()[1], step());
  // What would be lost grew while nothing was committed.
  double most = 0;
  for (const gang::RankReport& report : reports_.all()) {
    const auto found = report.metrics.find("uncommitted_steps");
    if (found != report.metrics.end()) most = std::max(most, found->second);
  }
  EXPECT_EQ(most, step());
}

TEST_F(TrainingLoopTest, GivesUpOnACoordinatorThatStaysAwayWhenToldToStop) {
  disk_.Notify();
  coordinator_away_ = true;
  std::thread test([this] {
    EXPECT_TRUE(WaitFor([&] { return step() >= 5; }));
    stop_ = true;
    EXPECT_TRUE(WaitFor([&] { return reports_.LastAre(gang::kPhaseCommitWait, 2); }));
    clock_.AdvanceTime(options_.stop_commit_timeout);
  });
  EXPECT_THAT(Run(), StatusIs(absl::StatusCode::kDeadlineExceeded,
                              HasSubstr("the coordinator has not committed it")));
  test.join();
}

TEST_F(TrainingLoopTest, TheEndOfTrainingWaitsForTheDiskAndTheCoordinator) {
  options_.train.set_steps(3);
  hangs_from_step_ = 3;
  std::thread test([this] {
    EXPECT_TRUE(WaitFor([&] { return reports_.LastAre(gang::kPhaseCheckpoint, 3); }));
    coordinator_away_ = true;
    disk_.Notify();
    EXPECT_TRUE(WaitFor([&] { return reports_.LastAre(gang::kPhaseCommitWait, 3); }));
    clock_.AdvanceTime(10 * options_.stop_commit_timeout);
    const size_t before = reports_.phases().size();
    EXPECT_TRUE(WaitFor([&] { return reports_.phases().size() >= before + 3; }));
    coordinator_away_ = false;
  });
  EXPECT_THAT(Run(), ::d2g::testing::IsOkAndHolds(TrainingEnd::kDone));
  test.join();
  EXPECT_THAT(committed(), ElementsAre(2, 3));
}

TEST_F(TrainingLoopTest, IsToldToStopWhileItWaitsForTriples) {
  data_.SetDown({0, 1});
  std::thread test([this] {
    EXPECT_TRUE(WaitFor([&] { return reports_.LastAre(gang::kPhaseDataWait, 3); }));
    stop_ = true;
  });
  EXPECT_THAT(Run(), ::d2g::testing::IsOkAndHolds(TrainingEnd::kStopped));
  test.join();
  reports_.Close();
  EXPECT_EQ(step(), 0);
  EXPECT_THAT(committed(), SizeIs(0));
}

}  // namespace
}  // namespace d2g::rank
