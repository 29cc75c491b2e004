#include "worker/export/export.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "model/folder/model_folder.h"
#include "model/weights/safetensors.h"
#include "services/common/digest.h"
#include "services/common/file_io.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tmpfs.h"
#include "tests/worker/export/student.h"

namespace d2g::exporter {
namespace {

using coordinator::v1::ExportRecord;
using coordinator::v1::ExportWork;
using d2g::testing::IsOk;
using d2g::testing::IsOkAndHolds;
using d2g::testing::StatusIs;
using d2g::testing::TempDir;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::UnorderedElementsAre;

namespace fs = std::filesystem;

std::string Teacher() { return std::string(std::getenv("D2G_SOURCE_DIR")) + "/demo/teacher"; }

// A checkpoint of the demo teacher's student.
void WriteCheckpoint(const std::string& folder, int64_t step, int64_t t0 = 999) {
  WriteStudent(Teacher(), folder, step, t0);
}

class ExportTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto teacher = model::InspectModelFolder(Teacher());
    ASSERT_THAT(teacher, IsOk());
    WriteCheckpoint(dir_.File("checkpoint"), 7);
    work_ = MakeWork(*teacher, dir_.path());
  }

  void ExpectNothingLeft() {
    EXPECT_FALSE(fs::exists(dir_.File("export")));
    EXPECT_THAT(Parts(), IsEmpty());
  }
  std::vector<std::string> Parts() {
    std::vector<std::string> parts;
    for (const auto& entry : fs::directory_iterator(dir_.path())) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with("export.part")) parts.push_back(name);
    }
    return parts;
  }

  TempDir dir_;
  ExportWork work_;
  lease::TaskContext context_;
};

TEST_F(ExportTest, WritesThePipelineAndWhereItCameFrom) {
  ASSERT_OK_AND_ASSIGN(const ExportRecord record, RunExport(work_, &context_));
  EXPECT_EQ(record.path(), dir_.File("export"));
  EXPECT_EQ(record.checkpoint_step(), 7);
  EXPECT_THAT(Parts(), IsEmpty());
  ASSERT_OK_AND_ASSIGN(const std::string digest, model::FolderDigest(record.path()));
  EXPECT_EQ(record.digest(), digest);
  EXPECT_THAT(model::InspectModelFolder(record.path()), IsOk());

  const json scheduler = ReadJson(record.path() + "/scheduler/scheduler_config.json");
  EXPECT_EQ(scheduler["_class_name"], "DDIMScheduler");
  EXPECT_EQ(scheduler["timestep_spacing"], "trailing");
  EXPECT_EQ(scheduler["steps_offset"], 1);
  EXPECT_EQ(scheduler["set_alpha_to_one"], true);
  EXPECT_EQ(scheduler["clip_sample"], false);
  EXPECT_EQ(scheduler["num_train_timesteps"], 1000);
  EXPECT_EQ(scheduler["trained_betas"].size(), 1000);
  EXPECT_EQ(scheduler["prediction_type"], "v_prediction");
  EXPECT_EQ(ReadJson(record.path() + "/model_index.json")["scheduler"],
            json({"diffusers", "DDIMScheduler"}));

  const json lineage = ReadJson(record.path() + "/d2g.json");
  EXPECT_EQ(lineage["job"], "jobs/1");
  EXPECT_EQ(lineage["dataset"]["name"], "datasets/abc");
  EXPECT_EQ(lineage["dataset"]["recipe"]["seed"], "11");
  EXPECT_EQ(lineage["checkpoint"]["step"], 7);
  ASSERT_OK_AND_ASSIGN(const std::string manifest,
                       common::ReadFile(dir_.File("checkpoint/manifest.json")));
  EXPECT_EQ(lineage["checkpoint"]["manifest_digest"], common::Xxh3Hex128(manifest));
  EXPECT_EQ(lineage["t0"], 999);

  const model::TensorMap stored =
      model::ReadSafetensors(record.path() + "/unet/diffusion_pytorch_model.safetensors");
  const model::TensorMap ema = model::ReadSafetensors(dir_.File("checkpoint/ema.safetensors"));
  ASSERT_EQ(stored.size(), ema.size());
  for (const auto& [name, tensor] : stored) {
    EXPECT_EQ(tensor.scalar_type(), at::kHalf) << name;
    EXPECT_TRUE(at::equal(tensor, ema.at(name).to(at::kHalf))) << name;
  }
  EXPECT_GT(context_.progress(), 10);
}

TEST_F(ExportTest, ARepeatGivesTheSameBytes) {
  ASSERT_OK_AND_ASSIGN(const ExportRecord first, RunExport(work_, &context_));
  ASSERT_OK_AND_ASSIGN(const ExportRecord second, RunExport(work_, &context_));
  EXPECT_EQ(first.digest(), second.digest());
}

TEST_F(ExportTest, ReplacesTheExportOfAnotherCheckpoint) {
  ASSERT_OK_AND_ASSIGN(const ExportRecord first, RunExport(work_, &context_));
  WriteCheckpoint(dir_.File("later"), 8);
  work_.set_checkpoint_path(dir_.File("later"));
  work_.set_checkpoint_step(8);
  ASSERT_OK_AND_ASSIGN(const ExportRecord second, RunExport(work_, &context_));
  EXPECT_NE(first.digest(), second.digest());
  EXPECT_EQ(ReadJson(dir_.File("export/d2g.json"))["checkpoint"]["step"], 8);
  EXPECT_THAT(Parts(), IsEmpty());
}

TEST_F(ExportTest, LeavesTheTreesOfOtherAttemptsAlone) {
  const auto old = fs::file_time_type::clock::now() - std::chrono::hours(25);
  fs::create_directories(dir_.File("export.part-00112233aabbccdd/unet"));
  fs::create_directories(dir_.File("export.part-0123456789abcdef/unet"));
  fs::last_write_time(dir_.File("export.part-0123456789abcdef"), old);
  // No attempt's name: whoever made it knows what for.
  fs::create_directories(dir_.File("export.part-1"));
  fs::last_write_time(dir_.File("export.part-1"), old);
  ASSERT_THAT(RunExport(work_, &context_), IsOk());
  EXPECT_THAT(Parts(), UnorderedElementsAre("export.part-00112233aabbccdd", "export.part-1"));
}

TEST_F(ExportTest, AttemptsAtTheSameTimeAllSucceed) {
  std::vector<absl::StatusOr<ExportRecord>> records(3, absl::UnknownError(""));
  std::vector<std::thread> attempts;
  for (auto& record : records) {
    attempts.emplace_back([this, &record] {
      lease::TaskContext context;
      record = RunExport(work_, &context);
    });
  }
  for (std::thread& attempt : attempts) attempt.join();
  ASSERT_OK_AND_ASSIGN(const std::string digest, model::FolderDigest(dir_.File("export")));
  for (const auto& record : records) {
    ASSERT_THAT(record, IsOk());
    EXPECT_EQ(record->digest(), digest);
  }
  EXPECT_THAT(Parts(), IsEmpty());
}

TEST_F(ExportTest, CutsTheScheduleAtAnEarlierT0) {
  WriteCheckpoint(dir_.File("checkpoint"), 7, /*t0=*/399);
  ASSERT_OK_AND_ASSIGN(const ExportRecord record, RunExport(work_, &context_));
  const json scheduler = ReadJson(record.path() + "/scheduler/scheduler_config.json");
  EXPECT_EQ(scheduler["num_train_timesteps"], 400);
  EXPECT_EQ(scheduler["trained_betas"].size(), 400);
}

TEST_F(ExportTest, RefusesAnotherTeacher) {
  work_.mutable_recipe()->set_teacher_digest("xxh3-128:00");
  EXPECT_THAT(RunExport(work_, &context_),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr(Teacher()), HasSubstr("xxh3-128:00"))));
  ExpectNothingLeft();
}

TEST_F(ExportTest, RefusesAStudentThatIsNotFinite) {
  model::TensorMap ema = model::ReadSafetensors(dir_.File("checkpoint/ema.safetensors"));
  ema.at("conv_in.bias") = at::full_like(ema.at("conv_in.bias"), 70000);
  model::WriteSafetensors(dir_.File("checkpoint/ema.safetensors"), ema);
  WriteManifest(dir_.File("checkpoint"));
  EXPECT_THAT(RunExport(work_, &context_), StatusIs(absl::StatusCode::kInvalidArgument,
                                                    HasSubstr("conv_in.bias is not finite")));
  ExpectNothingLeft();
}

TEST_F(ExportTest, ACheckpointThatCannotBeOpenedIsNoBadInput) {
  for (const char* file : {"ema.safetensors", "state.json", "manifest.json"}) {
    const std::string path = dir_.File("checkpoint/") + file;
    fs::rename(path, dir_.File("away"));
    EXPECT_THAT(RunExport(work_, &context_), StatusIs(absl::StatusCode::kNotFound, HasSubstr(path)))
        << file;
    fs::rename(dir_.File("away"), path);
  }
  ExpectNothingLeft();
}

TEST_F(ExportTest, RefusesACheckpointWhoseBytesChanged) {
  for (const char* file : {"ema.safetensors", "state.json"}) {
    const std::string path = dir_.File("checkpoint/") + file;
    ASSERT_OK_AND_ASSIGN(const std::string bytes, common::ReadFile(path));
    std::string flipped = bytes;
    flipped[flipped.size() / 2] ^= 1;
    ASSERT_THAT(common::WriteFileAtomically(path, flipped), IsOk());
    EXPECT_THAT(RunExport(work_, &context_),
                StatusIs(absl::StatusCode::kDataLoss,
                         AllOf(HasSubstr(path + ": XXH3-128 is " + common::Xxh3Hex128(flipped)),
                               HasSubstr("its manifest says " + common::Xxh3Hex128(bytes)))));
    ASSERT_THAT(common::WriteFileAtomically(path, bytes), IsOk());
  }
  ExpectNothingLeft();
}

TEST_F(ExportTest, RefusesACheckpointOfAnotherStepOrShape) {
  work_.set_checkpoint_step(9);
  EXPECT_THAT(RunExport(work_, &context_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("step 7, expected 9")));
  work_.set_checkpoint_step(7);
  model::TensorMap ema = model::ReadSafetensors(dir_.File("checkpoint/ema.safetensors"));
  ema.erase("conv_in.bias");
  model::WriteSafetensors(dir_.File("checkpoint/ema.safetensors"), ema);
  WriteManifest(dir_.File("checkpoint"));
  EXPECT_THAT(RunExport(work_, &context_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("conv_in.bias")));
  ExpectNothingLeft();
}

TEST_F(ExportTest, NamesTheFileThatAFullDiskDoesNotTake) {
  const d2g::testing::Tmpfs volume("1m");
  if (!volume.mounted()) GTEST_SKIP() << "mounting needs root";
  work_.set_export_path(volume.path() + "/export");
  const auto record = RunExport(work_, &context_);
  EXPECT_THAT(record.status().message(),
              AllOf(HasSubstr(volume.path()), HasSubstr("No space left on device")));
  EXPECT_THAT(record.status().message(), Not(HasSubstr(Teacher())));
  EXPECT_TRUE(fs::is_empty(volume.path()));
}

TEST_F(ExportTest, LeavesNothingWhenCancelled) {
  context_.Cancel(lease::CancelReason::kRevoked);
  EXPECT_THAT(RunExport(work_, &context_), StatusIs(absl::StatusCode::kCancelled));
  ExpectNothingLeft();
}

TEST_F(ExportTest, RunsInStockDiffusersAsInD2g) {
  for (const int64_t t0 : {int64_t{999}, int64_t{399}}) {
    WriteCheckpoint(dir_.File("checkpoint"), 7, t0);
    ASSERT_OK_AND_ASSIGN(const ExportRecord record, RunExport(work_, &context_));
    ExpectSameInDiffusers(record.path(), dir_.path());
  }
}

TEST_F(ExportTest, FilesThatNoExportMadeStayAndAreNamed) {
  fs::create_directories(dir_.File("export"));
  ASSERT_THAT(common::WriteFileAtomically(dir_.File("export/mine.txt"), "mine"), IsOk());
  // The rank has marked the folder long ago: what a user puts there later is his all the same.
  ASSERT_THAT(common::WriteFileAtomically(dir_.File("d2g-job.json"), R"({"job": "jobs/1"})"),
              IsOk());
  EXPECT_THAT(RunExport(work_, &context_),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr(dir_.File("export") + " holds mine.txt")));
  EXPECT_THAT(common::ReadFile(dir_.File("export/mine.txt")), IsOkAndHolds(std::string("mine")));
  EXPECT_THAT(Parts(), IsEmpty());
}

TEST_F(ExportTest, AFileThatAppearsDuringTheExportStays) {
  // At the last look: when the new folder is whole and the old place is still empty.
  fs::create_directories(dir_.File("export"));
  std::atomic<bool> over{false};
  std::thread user([&] {
    while (!over && !(Parts().size() == 1 && fs::exists(dir_.File(Parts()[0]) + "/d2g.json"))) {
      std::this_thread::yield();
    }
    std::ofstream(dir_.File("export/mine.txt")) << "mine";
  });
  const auto record = RunExport(work_, &context_);
  over = true;
  user.join();
  EXPECT_THAT(record, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("mine.txt")));
  EXPECT_THAT(common::ReadFile(dir_.File("export/mine.txt")), IsOkAndHolds(std::string("mine")));
  EXPECT_THAT(Parts(), IsEmpty());
}

TEST_F(ExportTest, AnotherJobsExportAndFolderStay) {
  ASSERT_THAT(RunExport(work_, &context_), IsOk());
  ExportWork other = work_;
  other.set_job("jobs/2");
  EXPECT_THAT(RunExport(other, &context_),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("holds the output of jobs/1"), HasSubstr("jobs/2"))));
  // Also where the mark was lost.
  fs::remove(dir_.File("d2g-job.json"));
  EXPECT_THAT(RunExport(other, &context_),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("jobs/1")));
  EXPECT_EQ(ReadJson(dir_.File("export/d2g.json"))["job"], "jobs/1");
}

TEST_F(ExportTest, ALinkIsReplacedAndNotFollowed) {
  ASSERT_THAT(RunExport(work_, &context_), IsOk());
  fs::rename(dir_.File("export"), dir_.File("elsewhere"));
  fs::create_directory_symlink(dir_.File("elsewhere"), dir_.File("export"));
  ASSERT_THAT(RunExport(work_, &context_), IsOk());
  EXPECT_FALSE(fs::is_symlink(dir_.File("export")));
  EXPECT_TRUE(fs::exists(dir_.File("elsewhere/d2g.json")));
  EXPECT_THAT(Parts(), IsEmpty());
}

TEST_F(ExportTest, TheRunnerRefusesPathsOutsideItsRoots) {
  coordinator::v1::Task task;
  *task.mutable_export_() = work_;
  coordinator::v1::CompleteTaskRequest result;
  EXPECT_THAT(ExportRunner({.model_roots = {dir_.path()}}).Run(task, &context_, &result),
              StatusIs(absl::StatusCode::kPermissionDenied,
                       AllOf(HasSubstr(Teacher()), HasSubstr("--model-root " + dir_.path()))));
  EXPECT_THAT(ExportRunner({.output_roots = {Teacher()}}).Run(task, &context_, &result),
              StatusIs(absl::StatusCode::kPermissionDenied,
                       HasSubstr("is not within --output-root " + Teacher())));
  ExpectNothingLeft();
  EXPECT_FALSE(fs::exists(dir_.File("d2g-job.json")));
  EXPECT_THAT(ExportRunner({.model_roots = {Teacher()}, .output_roots = {dir_.path()}})
                  .Run(task, &context_, &result),
              IsOk());
}

}  // namespace
}  // namespace d2g::exporter
