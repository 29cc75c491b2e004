// The commands that become or ask d2g-model: how they pass on what they are given and how they end.
// What generate draws is compared with diffusers in tests/worker/export.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "model/folder/model_folder.h"
#include "tests/testing/process.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_folder.h"
#include "tests/testing/tmpfs.h"

namespace d2g {
namespace {

using ::testing::AllOf;
using testing::ExitResult;
using ::testing::HasSubstr;
using testing::RunProcess;
using testing::SourcePath;

ExitResult Generate(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"d2g", "generate"});
  return RunProcess(std::move(arguments));
}

TEST(GenerateTest, PassesEveryFlagOn) {
  const ExitResult help = Generate({"--help"});
  EXPECT_EQ(help.code, 0);
  EXPECT_THAT(help.output, AllOf(HasSubstr("--prompt"), HasSubstr("--save-noise")));
  EXPECT_EQ(Generate({"--bogus"}).code, 2);
}

TEST(GenerateTest, BadInputIsNamed) {
  const testing::TempDir dir;
  const ExitResult no_model =
      Generate({"--model", dir.File("none"), "--prompt", "a red shoe", "--out", dir.File("x.png")});
  EXPECT_EQ(no_model.code, 3);
  EXPECT_THAT(no_model.output, AllOf(HasSubstr("error: "), HasSubstr("none/model_index.json")));
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

TEST(GenerateTest, AReadOnlyDiskIsNamedAndNothingIsWritten) {
  testing::Tmpfs volume("1m");
  if (!volume.mounted()) GTEST_SKIP() << "mounting needs root";
  ASSERT_TRUE(volume.MakeReadOnly());
  const testing::TempDir dir;
  const std::string out = volume.path() + "/x.png";
  const ExitResult result =
      Generate({"--model", SourcePath("demo/teacher"), "--prompt", "a red shoe", "--out", out,
                "--save-noise", dir.File("noise"), "--save-latents", dir.File("latents")});
  EXPECT_EQ(result.code, 3);
  EXPECT_THAT(result.output, AllOf(HasSubstr("--out: " + out), HasSubstr("Read-only file system")));
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

TEST(GenerateTest, SaysThatItsOtherHalfIsMissing) {
  const testing::TempDir dir;
  std::filesystem::copy_file(std::string(std::getenv("D2G_BIN_DIR")) + "/d2g", dir.File("d2g"));
  const ExitResult result = RunProcess({dir.File("d2g"), "generate", "--help"});
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.output, HasSubstr("cannot run " + dir.File("d2g-model")));
}

TEST(ModelCommandsTest, EveryCommandReachesTheModelProgram) {
  const std::vector<std::vector<std::string>> kCommands = {{"d2g", "teacher", "--help"},
                                                           {"d2g", "component", "--help"},
                                                           {"d2g", "model", "check", "--help"}};
  for (const auto& command : kCommands) {
    const ExitResult help = RunProcess(command);
    EXPECT_EQ(help.code, 0);
    EXPECT_THAT(help.output, HasSubstr("d2g-model " + command[command.size() - 2]));
  }
  EXPECT_EQ(RunProcess({"d2g", "model"}).code, 2);
  const auto refused = [](const std::vector<std::string>& arguments) {
    const auto ended = RunProcess(arguments);
    EXPECT_EQ(ended.code, 2);
    return ended.output;
  };
  EXPECT_THAT(refused({"d2g", "bogus"}), HasSubstr("unknown command \"bogus\""));
  EXPECT_THAT(refused({"d2g", "model", "bogus"}), HasSubstr("\"bogus\""));
  EXPECT_THAT(refused({"d2g", "submit", "--bogus"}), HasSubstr("unknown flag \"--bogus\""));
  EXPECT_THAT(refused({"d2g", "watch", "a", "b"}), HasSubstr("\"b\""));
}

TEST(ModelCommandsTest, InspectPrintsTheDigestThatJobsUse) {
  const std::string model = SourcePath("demo/teacher");
  const auto digest = model::InspectModelFolder(model);
  ASSERT_TRUE(digest.ok());
  const ExitResult whole = RunProcess({"d2g", "model", "inspect", model});
  EXPECT_EQ(whole.code, 0) << whole.output;
  EXPECT_THAT(whole.output, AllOf(HasSubstr("StableDiffusionPipeline"), HasSubstr(digest->digest),
                                  HasSubstr("usable by d2g")));
  const ExitResult json = RunProcess({"d2g", "model", "inspect", model, "--json", "--no-digest"});
  EXPECT_THAT(json.output, AllOf(HasSubstr("\"digest\": \"\""), HasSubstr("\"usable\": true")));
}

TEST(ModelCommandsTest, InspectEndsWithBadInputForWhatD2gCannotRun) {
  const ExitResult other = RunProcess({"d2g", "model", "inspect", SourcePath("demo/evaluator")});
  EXPECT_EQ(other.code, 3);
  EXPECT_THAT(other.output,
              AllOf(HasSubstr("SequentialNet is not supported"), HasSubstr("not usable by d2g")));
  EXPECT_EQ(RunProcess({"d2g", "model", "inspect", "/nonexistent"}).code, 3);
}

TEST(ModelCommandsTest, InspectSaysWhatSubmitRefusesAndWhatIsLeftOut) {
  const testing::TempDir dir;
  testing::WriteTinyFolder(dir.File("model"));
  const std::string unet = dir.File("model/unet/diffusion_pytorch_model.safetensors");
  testing::EditTensors(unet, [](auto& tensors) { tensors["v_pred"] = {{0}}; });
  const ExitResult good = RunProcess({"d2g", "model", "inspect", dir.File("model")});
  EXPECT_EQ(good.code, 0);
  EXPECT_THAT(good.output, HasSubstr("left out: 1 tensor without elements (v_pred)"));
  testing::EditTensors(unet, [](auto& tensors) { tensors.erase("conv_in.bias"); });
  const ExitResult bad = RunProcess({"d2g", "model", "inspect", dir.File("model")});
  EXPECT_EQ(bad.code, 3);
  const absl::Status submitted = model::CheckPipeline(dir.File("model"));
  ASSERT_FALSE(submitted.ok());
  EXPECT_THAT(bad.output, HasSubstr(std::string(submitted.message())));
}

TEST(DoctorTest, AsksTheModelProgramAndLeavesNothingBehind) {
  const testing::TempDir dir;
  const ExitResult result =
      RunProcess({"d2g", "doctor", "--data-dir", dir.File("new/data"), "--port", "1"});
  EXPECT_THAT(result.output, AllOf(HasSubstr("libtorch  2."), HasSubstr(dir.File("new/data")),
                                   HasSubstr("fsync")));
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
  const ExitResult json = RunProcess({"d2g", "doctor", "--json", "--data-dir", dir.path()});
  EXPECT_THAT(json.output, AllOf(HasSubstr("\"topic\": \"libtorch\""), HasSubstr("\"advice\"")));
}

TEST(DoctorTest, ABrokenInstallationIsAFindingNotAFailure) {
  const testing::TempDir dir;
  const ExitResult result = RunProcess({"d2g", "doctor", "--bin-dir", dir.path()});
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.output, AllOf(HasSubstr("bad      programs"), HasSubstr("bad      libtorch"),
                                   HasSubstr("tools/libtorch.sh")));
}

}  // namespace
}  // namespace d2g
