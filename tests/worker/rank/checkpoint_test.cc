#include "worker/rank/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <string>

#include <ATen/ATen.h>

#include "model/files/json_config.h"
#include "model/text_to_image.h"
#include "services/common/digest.h"
#include "services/common/file_io.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/wait.h"
#include "worker/common/torch_status.h"
#include "worker/distil/sequential_net.h"
#include "worker/distil/student.h"
#include "worker/rank/checkpoint_writer.h"

namespace d2g::rank {
namespace {

namespace fs = std::filesystem;
using ::d2g::testing::IsOk;
using ::d2g::testing::StatusIs;
using ::d2g::testing::TempDir;
using ::d2g::testing::WaitFor;
using ::testing::AllOf;
using ::testing::HasSubstr;

CheckpointState State(int64_t step = 40, int64_t generation = 3) {
  CheckpointState state;
  state.step = step;
  state.generation = generation;
  state.world_size = 2;
  state.cursor = {1, 6};
  state.samples = 1000;
  state.skipped = 2;
  state.parameter_hash = "0123456789abcdef";
  state.t0 = 999;
  state.parametrization = "x0";
  state.prediction_type = "epsilon";
  state.dataset = "datasets/d";
  state.teacher_digest = "xxh3-128:00";
  state.spec_json = "{\"train\":{\"steps\":\"100\"}}";
  return state;
}

CheckpointTensors Tensors() {
  at::manual_seed(1);
  return {{"generator", {{"conv.weight", at::randn({3, 5})}, {"conv.bias", at::randn({3})}}},
          {"optimizer_g", {{"step", at::scalar_tensor(40.0)}}}};
}

std::set<std::string> Entries(const std::string& folder) {
  std::set<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    names.insert(entry.path().filename().string());
  }
  return names;
}

TEST(Checkpoint, ComesBackAsItWas) {
  const TempDir dir;
  ASSERT_OK_AND_ASSIGN(const WrittenCheckpoint written,
                       WriteCheckpoint(dir.path(), State(), Tensors()));
  EXPECT_THAT(fs::path(written.path).filename().string(), ::testing::StartsWith("step-40-g3-"));
  EXPECT_EQ(Entries(written.path),
            (std::set<std::string>{"generator.safetensors", "optimizer_g.safetensors", "state.json",
                                   "manifest.json"}));
  ASSERT_OK_AND_ASSIGN(const std::string manifest,
                       common::ReadFile(written.path + "/manifest.json"));
  EXPECT_EQ(written.manifest_digest, common::Xxh3Hex128(manifest));

  ASSERT_OK_AND_ASSIGN(const LoadedCheckpoint loaded,
                       ReadCheckpoint(written.path, written.manifest_digest));
  EXPECT_EQ(loaded.state.step, 40);
  EXPECT_EQ(loaded.state.cursor, (DataCursor{1, 6}));
  EXPECT_EQ(loaded.state.samples, 1000);
  EXPECT_EQ(loaded.state.skipped, 2);
  EXPECT_EQ(loaded.state.parameter_hash, "0123456789abcdef");
  EXPECT_EQ(loaded.state.t0, 999);
  EXPECT_EQ(loaded.state.spec_json, "{\"train\":{\"steps\":\"100\"}}");
  ASSERT_EQ(loaded.tensors.size(), 2u);
  for (const auto& [file, map] : Tensors()) {
    for (const auto& [name, tensor] : map) {
      EXPECT_TRUE(at::equal(loaded.tensors.at(file).at(name), tensor)) << name;
    }
  }
}

TEST(Checkpoint, TwoOfTheSameStepDoNotMeet) {
  const TempDir dir;
  ASSERT_OK_AND_ASSIGN(const auto first, WriteCheckpoint(dir.path(), State(), Tensors()));
  ASSERT_OK_AND_ASSIGN(const auto second, WriteCheckpoint(dir.path(), State(), Tensors()));
  EXPECT_NE(first.path, second.path);
}

TEST(Checkpoint, DamageIsNamed) {
  const TempDir dir;
  ASSERT_OK_AND_ASSIGN(const WrittenCheckpoint written,
                       WriteCheckpoint(dir.path(), State(), Tensors()));
  const std::string& digest = written.manifest_digest;
  const std::string file = written.path + "/generator.safetensors";
  ASSERT_OK_AND_ASSIGN(const std::string bytes, common::ReadFile(file));

  std::string flipped = bytes;
  flipped.back() ^= 1;
  ASSERT_THAT(common::WriteFileAtomically(file, flipped), IsOk());
  EXPECT_THAT(
      ReadCheckpoint(written.path, digest),
      StatusIs(absl::StatusCode::kDataLoss, AllOf(HasSubstr(file), HasSubstr("XXH3-128 is"))));
  ASSERT_THAT(common::WriteFileAtomically(file, bytes.substr(0, bytes.size() - 4)), IsOk());
  EXPECT_THAT(ReadCheckpoint(written.path, digest),
              StatusIs(absl::StatusCode::kDataLoss,
                       HasSubstr("bytes, its manifest says " + std::to_string(bytes.size()))));
  fs::remove(file);
  EXPECT_THAT(ReadCheckpoint(written.path, digest),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(file)));
  ASSERT_THAT(common::WriteFileAtomically(file, bytes), IsOk());
  EXPECT_THAT(ReadCheckpoint(written.path, digest), IsOk());
  EXPECT_THAT(ReadCheckpoint(written.path, std::string(32, '0')),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("the coordinator's record says")));
}

TEST(Checkpoint, UnwritableFolderLeavesNothing) {
  const TempDir dir;
  const std::string file = dir.File("file");
  ASSERT_THAT(common::WriteFileAtomically(file, "x"), IsOk());
  EXPECT_THAT(WriteCheckpoint(file, State(), Tensors()).status().message(), HasSubstr(file));
  EXPECT_EQ(Entries(dir.path()), (std::set<std::string>{"file"}));
}

TEST(TorchStatus, AFileThatCannotBeWrittenIsNoBadInput) {
  EXPECT_THAT(CatchTorch([] { model::WriteSafetensors("/no/such/folder/file", {}); }),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("/no/such/folder/file")));
  for (const char* said : {"CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate",
                           "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
                           "GET was unable to find an engine to execute this computation"}) {
    EXPECT_THAT(CatchTorch([&] { TORCH_CHECK(false, said); }),
                StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr(said)));
  }
  const auto cuda_error = [](int32_t code) {
    return CatchTorch([&] { throw c10::AcceleratorError({"f", "file", 1}, code, "CUDA error"); });
  };
  EXPECT_TRUE(IsDeviceLost(cuda_error(700)));
  EXPECT_TRUE(IsDeviceLost(cuda_error(719)));
  for (const int32_t code : {9, 209, 701, 720}) EXPECT_FALSE(IsDeviceLost(cuda_error(code)));
  EXPECT_EQ(cuda_error(9).code(), absl::StatusCode::kInternal);
  EXPECT_THAT(CatchTorch([] { model::Fail("steps is ", -1); }),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("steps is -1")));
}

TEST(TorchStatus, AFileThatAnInputFolderLacksIsBadInput) {
  const TempDir dir;
  const std::string gone = dir.File("gone");
  const auto judged = [&](const std::string& file) {
    return JudgeMissingInput(CatchTorch([&] { model::ReadJsonFile(file); }),
                             {gone, "", dir.path()});
  };
  EXPECT_THAT(judged(dir.File("vocab.json")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("vocab.json")));
  ASSERT_TRUE(std::filesystem::create_directory(gone));
  EXPECT_THAT(judged(gone + "/vocab.json"), StatusIs(absl::StatusCode::kInvalidArgument));
  // Another machine's file, or another error.
  EXPECT_THAT(judged("/no/such/folder/state.json"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(judged(dir.File(std::string(300, 'x'))), StatusIs(absl::StatusCode::kInternal));
}

TEST(TorchStatus, WithoutTheInputFolderTheMachineHasLostAMount) {
  EXPECT_THAT(JudgeMissingInput(CatchTorch([] { model::ReadJsonFile("/no/such/folder/a.json"); }),
                                {"/no/such/folder"}),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST(TorchStatus, AFileThatIsNotThereIsNotFound) {
  const TempDir dir;
  const auto expect_missing = [](const absl::Status& status, const std::string& file) {
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kNotFound, HasSubstr(file)));
  };
  const std::string& folder = dir.path();
  expect_missing(CatchTorch([&] { model::ReadJsonFile(folder + "/config.json"); }), "config.json");
  expect_missing(CatchTorch([&] { model::ReadSafetensors(folder + "/a.safetensors"); }),
                 "a.safetensors");
  expect_missing(CatchTorch([&] { model::ReadSafetensorsFolder(folder, "weights"); }),
                 "weights.safetensors");
  expect_missing(CatchTorch([&] { distil::StudentCheckpoint::Load(folder); }), "state.json");
  expect_missing(CatchTorch([&] { distil::SequentialNet::Load(folder); }), "config.json");
  expect_missing(CatchTorch([&] { model::TextToImageModel::Load(folder); }), "model_index.json");
  // What cannot be opened for another reason says nothing about what was asked for.
  const std::string too_long = dir.File(std::string(300, 'x'));
  EXPECT_THAT(CatchTorch([&] { model::ReadJsonFile(too_long); }),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("File name too long")));
  // What can be read and is wrong stays bad input.
  ASSERT_THAT(common::WriteFileAtomically(dir.File("state.json"), "{"), IsOk());
  EXPECT_THAT(CatchTorch([&] { distil::StudentCheckpoint::Load(folder); }),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("state.json")));
}

TEST(Checkpoint, OnlyCheckpointsAreDeleted) {
  const TempDir dir;
  const std::string checkpoints = dir.File("checkpoints");
  ASSERT_OK_AND_ASSIGN(const auto written, WriteCheckpoint(checkpoints, State(), Tensors()));
  fs::create_directories(dir.File("step-1-g1-other"));
  for (const std::string& path : {dir.path(), checkpoints, checkpoints + "/../step-1-g1-other",
                                  std::string("/"), checkpoints + "/notes"}) {
    EXPECT_THAT(DeleteCheckpoint(checkpoints, path), StatusIs(absl::StatusCode::kInvalidArgument));
  }
  EXPECT_TRUE(fs::exists(written.path));
  EXPECT_THAT(DeleteCheckpoint(checkpoints, written.path), IsOk());
  EXPECT_FALSE(fs::exists(written.path));
  EXPECT_THAT(DeleteCheckpoint(checkpoints, written.path), IsOk());
}

TEST(Checkpoint, UnfinishedFoldersOfOldGenerationsGo) {
  const TempDir dir;
  ASSERT_OK_AND_ASSIGN(const auto finished, WriteCheckpoint(dir.path(), State(40, 2), Tensors()));
  for (const char* name :
       {"step-41-g2-aaaaaaaa", "step-41-g3-bbbbbbbb", "notes", "step-x", "step-41-g2-mine"}) {
    fs::create_directories(dir.File(name));
  }
  RemoveUnfinishedCheckpoints(dir.path(), /*generation=*/3);
  EXPECT_EQ(Entries(dir.path()),
            (std::set<std::string>{fs::path(finished.path).filename().string(),
                                   "step-41-g3-bbbbbbbb", "notes", "step-x", "step-41-g2-mine"}));
}

TEST(Checkpoint, FoldersThatNobodyCommittedGo) {
  const TempDir dir;
  const auto write = [&](const std::string& job, int64_t generation) {
    CheckpointState state = State(40, generation);
    state.job = job;
    return WriteCheckpoint(dir.path(), state, Tensors())->path;
  };
  const std::string lost = write("jobs/j", 2), listed = write("jobs/j", 2);
  const std::string current = write("jobs/j", 3), of_another = write("jobs/k", 2);
  const std::string nameless = write("", 2);
  RemoveLostCheckpoints(dir.path(), "jobs/j", /*generation=*/3, {listed});
  EXPECT_FALSE(fs::exists(lost));
  for (const std::string& path : {listed, current, of_another, nameless}) {
    EXPECT_TRUE(fs::exists(path)) << path;
  }
}

using coordinator::v1::CommitCheckpointRequest;
using coordinator::v1::CommitCheckpointResponse;

TEST(CheckpointWriter, CommitsOnceTheCoordinatorAnswersAndDeletesWhatItLetsGo) {
  const TempDir dir;
  ASSERT_OK_AND_ASSIGN(const auto old, WriteCheckpoint(dir.path(), State(20), Tensors()));
  std::atomic<int> attempts{0};
  std::atomic<bool> up{false};
  CommitCheckpointRequest committed;
  CheckpointWriter writer(
      "jobs/j", dir.path(),
      [&](const CommitCheckpointRequest& request) -> absl::StatusOr<CommitCheckpointResponse> {
        ++attempts;
        if (!up) return absl::UnavailableError("down");
        committed = request;
        CommitCheckpointResponse response;
        response.add_delete_paths(old.path);
        response.add_delete_paths("/etc");
        return response;
      });
  ASSERT_THAT(writer.Start(State(), Tensors()), IsOk());
  ASSERT_TRUE(WaitFor([&] { return attempts >= 2; }));
  EXPECT_THAT(writer.Wait(absl::ZeroDuration()), StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(writer.status(), IsOk());
  up = true;
  ASSERT_THAT(writer.Wait(absl::Seconds(20)), IsOk());
  EXPECT_EQ(committed.job(), "jobs/j");
  EXPECT_EQ(committed.step(), 40);
  EXPECT_EQ(committed.generation(), 3);
  EXPECT_THAT(ReadCheckpoint(committed.path(), committed.manifest_digest()), IsOk());
  EXPECT_FALSE(fs::exists(old.path));
}

TEST(CheckpointWriter, TellsTheDiskFromTheCoordinator) {
  using Stage = CheckpointWriter::Stage;
  absl::Notification disk;
  std::atomic<bool> up{false};
  CheckpointWriter writer(
      "jobs/j", "dir",
      [&](const auto&) -> absl::StatusOr<CommitCheckpointResponse> {
        if (!up) return absl::UnavailableError("down");
        return CommitCheckpointResponse();
      },
      [&](const auto&, const auto&, const auto&,
          const auto& progress) -> absl::StatusOr<WrittenCheckpoint> {
        progress();
        disk.WaitForNotification();
        return WrittenCheckpoint{"path", "digest"};
      });
  EXPECT_EQ(writer.stage(), Stage::kIdle);
  EXPECT_EQ(writer.committed_step(), std::nullopt);
  ASSERT_THAT(writer.Start(State(), Tensors()), IsOk());
  ASSERT_TRUE(WaitFor([&] { return writer.progress() == 1; }));
  EXPECT_EQ(writer.stage(), Stage::kWriting);
  EXPECT_THAT(writer.Wait(absl::ZeroDuration()),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("still being written")));
  EXPECT_THAT(writer.Start(State(41), Tensors()),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("under way")));
  disk.Notify();
  ASSERT_TRUE(WaitFor([&] { return writer.stage() == Stage::kCommitting; }));
  EXPECT_THAT(writer.Wait(absl::ZeroDuration()),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("has not committed it")));
  EXPECT_EQ(writer.committed_step(), std::nullopt);
  up = true;
  ASSERT_THAT(writer.Wait(absl::Seconds(20)), IsOk());
  EXPECT_EQ(writer.stage(), Stage::kIdle);
  EXPECT_EQ(writer.committed_step(), 40);
}

TEST(CheckpointWriter, WhatIsUnderWayAtTheEndIsWrittenAndCommittedIfThatTakesOneCall) {
  for (const bool up : {true, false}) {
    const TempDir dir;
    int attempts = 0;
    auto writer = std::make_unique<CheckpointWriter>(
        "jobs/j", dir.path(),
        [&](const CommitCheckpointRequest& request) -> absl::StatusOr<CommitCheckpointResponse> {
          ++attempts;
          EXPECT_THAT(ReadCheckpoint(request.path(), request.manifest_digest()), IsOk());
          if (!up) return absl::UnavailableError("down");
          return CommitCheckpointResponse();
        });
    ASSERT_THAT(writer->Start(State(), Tensors()), IsOk());
    writer.reset();
    EXPECT_GE(attempts, 1);
  }
}

TEST(CheckpointWriter, AWriteThatFailsIsReported) {
  CheckpointWriter writer("jobs/j", "/dev/null",
                          [](const auto&) { return CommitCheckpointResponse(); });
  ASSERT_THAT(writer.Start(State(), Tensors()), IsOk());
  EXPECT_THAT(writer.Wait(absl::Seconds(20)).message(), HasSubstr("/dev/null"));
  EXPECT_EQ(writer.stage(), CheckpointWriter::Stage::kIdle);
  EXPECT_EQ(writer.committed_step(), std::nullopt);
}

TEST(CheckpointWriter, RefusedCommitIsReported) {
  const TempDir dir;
  CheckpointWriter writer("jobs/j", dir.path(),
                          [](const auto&) -> absl::StatusOr<CommitCheckpointResponse> {
                            return absl::FailedPreconditionError("generation 3 is not 4");
                          });
  ASSERT_THAT(writer.Start(State(), Tensors()), IsOk());
  EXPECT_THAT(writer.Wait(absl::Seconds(20)),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("committing the checkpoint of step 40: generation 3 is not 4")));
  EXPECT_THAT(writer.Start(State(41), Tensors()), StatusIs(absl::StatusCode::kFailedPrecondition));
}

}  // namespace
}  // namespace d2g::rank
