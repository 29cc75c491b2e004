// d2g generate, which becomes d2g-model: how it passes on what it is given and how it ends. What it
// draws is compared with diffusers in tests/worker/export.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/testing/process.h"
#include "tests/testing/temp_dir.h"
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
      Generate({"--model", SourcePath("models/demo-teacher"), "--prompt", "a red shoe", "--out",
                out, "--save-noise", dir.File("noise"), "--save-latents", dir.File("latents")});
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

}  // namespace
}  // namespace d2g
