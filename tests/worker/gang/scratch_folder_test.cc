#include "worker/gang/scratch_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace d2g::gang {
namespace {

using ::d2g::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

class ScratchFolderTest : public ::testing::Test {
 protected:
  ScratchFolderTest() { setenv("TMPDIR", dir_.path().c_str(), /*overwrite=*/1); }
  ~ScratchFolderTest() override { unsetenv("TMPDIR"); }
  static bool Exists(const std::string& path) { return std::filesystem::exists(path); }

  testing::TempDir dir_;
};

TEST_F(ScratchFolderTest, LivesAsLongAsItsOwner) {
  std::string path;
  {
    ASSERT_OK_AND_ASSIGN(const auto folder, ScratchFolder::Make("mine-"));
    path = folder->path();
    EXPECT_THAT(path, HasSubstr(dir_.File("mine-")));
    std::ofstream(path + "/file") << "x";
    EXPECT_TRUE(Exists(path));
  }
  EXPECT_FALSE(Exists(path));
}

TEST_F(ScratchFolderTest, RemovesWhatKilledOwnersLeftAndNothingElse) {
  ASSERT_OK_AND_ASSIGN(const auto alive, ScratchFolder::Make("mine-"));
  // Nobody holds the lock of these.
  std::filesystem::create_directories(dir_.File("mine-abcdef/sub"));
  std::filesystem::create_directories(dir_.File("others"));
  ASSERT_OK_AND_ASSIGN(const auto folder, ScratchFolder::Make("mine-"));
  EXPECT_FALSE(Exists(dir_.File("mine-abcdef")));
  EXPECT_TRUE(Exists(dir_.File("others")));
  EXPECT_TRUE(Exists(alive->path()));
  EXPECT_NE(alive->path(), folder->path());
}

TEST_F(ScratchFolderTest, NamesTheFolderInWhichNoneCanBeMade) {
  setenv("TMPDIR", dir_.File("none").c_str(), /*overwrite=*/1);
  EXPECT_THAT(ScratchFolder::Make("mine-").status(),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr(dir_.File("none")), HasSubstr("No such file"),
                             HasSubstr("$TMPDIR"))));
}

}  // namespace
}  // namespace d2g::gang
