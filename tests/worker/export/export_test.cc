#include "worker/export/export.h"

#include <ATen/CPUGeneratorImpl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "services/common/digest.h"
#include "services/common/file_io.h"
#include "services/common/file_manifest.h"
#include "services/common/model_folder.h"
#include "tests/testing/process.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tmpfs.h"
#include "worker/model/network/unet_2d_condition.h"
#include "worker/model/weights/safetensors.h"

namespace d2g::exporter {
namespace {

using coordinator::v1::ExportRecord;
using coordinator::v1::ExportWork;
using d2g::testing::IsOk;
using d2g::testing::StatusIs;
using d2g::testing::TempDir;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

namespace fs = std::filesystem;

std::string Teacher() {
  return std::string(std::getenv("D2G_SOURCE_DIR")) + "/models/demo-teacher";
}

json ReadJson(const std::string& path) {
  std::ifstream file(path);
  return json::parse(file);
}

// Lists the files as they are now.
void WriteManifest(const std::string& folder) {
  const auto files = common::DescribeFiles(folder, {"state.json", "ema.safetensors"});
  ASSERT_THAT(files, IsOk());
  ASSERT_THAT(
      common::WriteFileAtomically(folder + "/manifest.json", common::FormatManifest(*files)),
      IsOk());
}

// Writes a checkpoint whose student is the teacher, a little changed.
void WriteCheckpoint(const std::string& folder, int64_t step, int64_t t0 = 999) {
  fs::create_directories(folder);
  const auto unet = model::UNet2DConditionModel::Load(Teacher() + "/unet");
  at::Generator generator = at::detail::createCPUGenerator(static_cast<uint64_t>(step));
  model::TensorMap ema;
  for (const auto& [name, tensor] : unet.parameters()) {
    ema[name] =
        tensor + 0.01 * at::randn(tensor.sizes(), generator, at::kFloat) * tensor.abs().mean();
  }
  model::WriteSafetensors(folder + "/ema.safetensors", ema);
  const json state = {{"step", step}, {"t0", t0}, {"parametrization", "x0"}};
  ASSERT_THAT(common::WriteFileAtomically(folder + "/state.json", state.dump()), IsOk());
  WriteManifest(folder);
}

class ExportTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto teacher = common::InspectModelFolder(Teacher());
    ASSERT_THAT(teacher, IsOk());
    WriteCheckpoint(dir_.File("checkpoint"), 7);
    work_.set_job("jobs/1");
    work_.mutable_spec()->mutable_teacher()->set_path(Teacher());
    work_.mutable_spec()->set_output_dir(dir_.path());
    work_.set_dataset("datasets/abc");
    work_.mutable_recipe()->set_teacher_digest(teacher->digest);
    work_.mutable_recipe()->set_seed(11);
    work_.set_checkpoint_path(dir_.File("checkpoint"));
    work_.set_checkpoint_step(7);
    work_.set_export_path(dir_.File("export"));
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
  agent::TaskContext context_;
};

TEST_F(ExportTest, WritesThePipelineAndWhereItCameFrom) {
  ASSERT_OK_AND_ASSIGN(const ExportRecord record, RunExport(work_, &context_));
  EXPECT_EQ(record.path(), dir_.File("export"));
  EXPECT_EQ(record.checkpoint_step(), 7);
  EXPECT_THAT(Parts(), IsEmpty());
  ASSERT_OK_AND_ASSIGN(const std::string digest, common::FolderDigest(record.path()));
  EXPECT_EQ(record.digest(), digest);
  EXPECT_THAT(common::InspectModelFolder(record.path()), IsOk());

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
  fs::create_directories(dir_.File("export.part-another/unet"));
  fs::create_directories(dir_.File("export.part-dead/unet"));
  fs::last_write_time(dir_.File("export.part-dead"),
                      fs::file_time_type::clock::now() - std::chrono::hours(25));
  ASSERT_THAT(RunExport(work_, &context_), IsOk());
  EXPECT_THAT(Parts(), ElementsAre("export.part-another"));
}

TEST_F(ExportTest, AttemptsAtTheSameTimeAllSucceed) {
  std::vector<absl::StatusOr<ExportRecord>> records(3, absl::UnknownError(""));
  std::vector<std::thread> attempts;
  for (auto& record : records) {
    attempts.emplace_back([this, &record] {
      agent::TaskContext context;
      record = RunExport(work_, &context);
    });
  }
  for (std::thread& attempt : attempts) attempt.join();
  ASSERT_OK_AND_ASSIGN(const std::string digest, common::FolderDigest(dir_.File("export")));
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
  context_.Cancel(agent::CancelReason::kRevoked);
  EXPECT_THAT(RunExport(work_, &context_), StatusIs(absl::StatusCode::kCancelled));
  ExpectNothingLeft();
}

TEST_F(ExportTest, RunsInStockDiffusersAsInD2g) {
  for (const int64_t t0 : {int64_t{999}, int64_t{399}}) {
    WriteCheckpoint(dir_.File("checkpoint"), 7, t0);
    ASSERT_OK_AND_ASSIGN(const ExportRecord record, RunExport(work_, &context_));
    const char* cache = std::getenv("D2G_CACHE");
    const std::string python =
        (cache ? std::string(cache) : std::string(std::getenv("HOME")) + "/.cache/d2g") +
        "/venv/bin/python";
    const d2g::testing::ExitResult result = d2g::testing::RunProcess(
        {python, d2g::testing::SourcePath("tests/worker/export/compare_with_diffusers.py"),
         record.path(), std::string(std::getenv("D2G_BIN_DIR")) + "/d2g", dir_.path()},
        absl::Minutes(3));
    EXPECT_EQ(result.code, 0) << result.output;
    EXPECT_THAT(result.output, HasSubstr("largest difference"));
  }
}

}  // namespace
}  // namespace d2g::exporter
