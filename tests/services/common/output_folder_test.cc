// Whose an output folder is, and what may be moved or replaced in it.
#include "services/common/output_folder.h"

#include <atomic>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/common/file_io.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace d2g::common {
namespace {

namespace fs = std::filesystem;
using ::d2g::testing::IsOk;
using ::d2g::testing::IsOkAndHolds;
using ::d2g::testing::StatusIs;
using ::d2g::testing::TempDir;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr absl::StatusCode kRefused = absl::StatusCode::kFailedPrecondition;

class OutputFolderTest : public ::testing::Test {
 protected:
  std::string File(const std::string& name) const { return out_ + "/" + name; }
  void Write(const std::string& name, const std::string& content) {
    fs::create_directories(fs::path(File(name)).parent_path());
    std::ofstream(File(name)) << content;
  }

  const TempDir dir_;
  const std::string out_ = dir_.File("a/out");
};

TEST_F(OutputFolderTest, AClaimMarksTheFolderAndARepeatChangesNothing) {
  EXPECT_TRUE(FindOutputOwner(out_)->source.empty());
  ASSERT_THAT(ClaimOutput(out_, "jobs/one"), IsOk());
  EXPECT_THAT(ReadFile(File("d2g-job.json")),
              IsOkAndHolds(std::string("{\"job\":\"jobs/one\",\"version\":1}\n")));
  EXPECT_EQ(std::distance(fs::directory_iterator(out_), {}), 1) << "no draft stays";
  Write("export/model_index.json", "{}");
  ASSERT_THAT(ClaimOutput(out_, "jobs/one", /*take_over=*/true), IsOk());
  EXPECT_TRUE(fs::exists(File("export/model_index.json")));
  ASSERT_OK_AND_ASSIGN(const OutputOwner owner, FindOutputOwner(out_));
  EXPECT_EQ(owner.Describe(), "jobs/one (as " + File("d2g-job.json") + " says)");
}

TEST_F(OutputFolderTest, AnotherJobIsRefusedWithTheNameOfTheFirst) {
  ASSERT_THAT(ClaimOutput(out_, "jobs/one"), IsOk());
  EXPECT_THAT(ClaimOutput(out_, "jobs/two"),
              StatusIs(kRefused, AllOf(HasSubstr(out_), HasSubstr("jobs/one"),
                                       HasSubstr("jobs/two may not write there"))));
  EXPECT_EQ(FindOutputOwner(out_)->job, "jobs/one");
}

TEST_F(OutputFolderTest, TakingOverSetsAllAsideAndLosesNothing) {
  ASSERT_THAT(ClaimOutput(out_, "jobs/one"), IsOk());
  Write("export/d2g.json", R"({"job": "jobs/one"})");
  Write("checkpoints/step-1-g1-0/state.json", R"({"job": "jobs/one"})");
  Write("audit/generation-1-rank-0.jsonl", "{}");
  Write("evaluation/notes.txt", "mine");
  Write("readme.txt", "mine");
  ASSERT_THAT(ClaimOutput(out_, "jobs/two", /*take_over=*/true), IsOk());
  EXPECT_EQ(FindOutputOwner(out_)->job, "jobs/two");
  const std::string old = ReplacedFolder(out_, "jobs/one");
  EXPECT_EQ(old, File("replaced/one"));
  EXPECT_EQ(FindOutputOwner(old)->job, "jobs/one");
  for (const char* file : {"export/d2g.json", "checkpoints/step-1-g1-0/state.json",
                           "audit/generation-1-rank-0.jsonl", "evaluation/notes.txt"}) {
    EXPECT_TRUE(fs::exists(old + "/" + file)) << file;
    EXPECT_FALSE(fs::exists(File(file))) << file;
  }
  EXPECT_TRUE(fs::exists(File("readme.txt"))) << "no folder of d2g's";
}

TEST_F(OutputFolderTest, ATakeoverThatWasCutShortGoesOn) {
  ASSERT_THAT(ClaimOutput(out_, "jobs/one"), IsOk());
  Write("replaced/one/export/d2g.json", R"({"job": "jobs/one"})");
  Write("audit/generation-1-rank-0.jsonl", "{}");
  ASSERT_THAT(ClaimOutput(out_, "jobs/two", /*take_over=*/true), IsOk());
  EXPECT_TRUE(fs::exists(File("replaced/one/audit/generation-1-rank-0.jsonl")));
  EXPECT_TRUE(fs::exists(File("replaced/one/export/d2g.json")));
}

TEST_F(OutputFolderTest, ATakeoverOverwritesNothingThatIsSetAsideAlready) {
  ASSERT_THAT(ClaimOutput(out_, "jobs/one"), IsOk());
  Write("export/d2g.json", R"({"job": "jobs/one", "n": 2})");
  Write("replaced/one/export/d2g.json", R"({"job": "jobs/one", "n": 1})");
  EXPECT_THAT(ClaimOutput(out_, "jobs/two", /*take_over=*/true),
              StatusIs(kRefused, HasSubstr(File("replaced/one/export") + " is there already")));
  EXPECT_EQ(FindOutputOwner(out_)->job, "jobs/one");
  EXPECT_THAT(ReadFile(File("replaced/one/export/d2g.json")), IsOkAndHolds(HasSubstr("\"n\": 1")));
}

TEST_F(OutputFolderTest, FilesThatNoJobMadeAreRefusedAndStay) {
  for (const char* file :
       {"export/mine.txt", "evaluation/report.json", "checkpoints/mine/a", "audit/log"}) {
    fs::remove_all(out_);
    Write(file, "mine");
    const std::string folder = File(std::string(file).substr(0, std::string(file).find('/')));
    for (const bool take_over : {false, true}) {
      EXPECT_THAT(ClaimOutput(out_, "jobs/one", take_over),
                  StatusIs(kRefused, AllOf(HasSubstr(folder + " holds "),
                                           HasSubstr("choose another output_dir"))))
          << file;
    }
    EXPECT_THAT(ReadFile(File(file)), IsOkAndHolds(std::string("mine")));
    EXPECT_FALSE(fs::exists(File("d2g-job.json")));
  }
  fs::remove_all(out_);
  Write("export", "a file");
  EXPECT_THAT(ClaimOutput(out_, "jobs/one"),
              StatusIs(kRefused, HasSubstr(File("export") + " is not a folder")));
}

TEST_F(OutputFolderTest, EmptyFoldersAndFilesBesideThemAreInNobodysWay) {
  Write("readme.txt", "mine");
  for (const char* name : {"export", "evaluation", "checkpoints", "audit"}) {
    fs::create_directories(File(name));
  }
  EXPECT_THAT(ClaimOutput(out_, "jobs/one"), IsOk());
}

TEST_F(OutputFolderTest, WithoutAMarkTheFilesSayWhoseTheyAre) {
  Write("checkpoints/step-1-g1-0/state.json", R"({"job": "jobs/one"})");
  Write("audit/generation-1-rank-0.jsonl", "{}");
  EXPECT_THAT(
      ClaimOutput(out_, "jobs/two"),
      StatusIs(kRefused, HasSubstr("jobs/one (as " + File("checkpoints/step-1-g1-0/state.json"))));
  // Jobs that wrote into one folder before there were marks.
  Write("checkpoints/step-2-g1-0/state.json", R"({"job": "jobs/two"})");
  EXPECT_THAT(ClaimOutput(out_, "jobs/two"), IsOk());
  fs::remove_all(out_);
  Write("export/d2g.json", R"({"t0": 999})");
  EXPECT_THAT(ClaimOutput(out_, "jobs/two"), StatusIs(kRefused, HasSubstr("an earlier job")));
  EXPECT_THAT(ClaimOutput(out_, "jobs/two", /*take_over=*/true), IsOk());
  EXPECT_TRUE(fs::exists(File("replaced/unnamed/export/d2g.json")));
}

TEST_F(OutputFolderTest, NoFileSaysWhereToMoveThings) {
  Write("checkpoints/step-1-g1-0/state.json", R"({"job": "jobs/../../elsewhere"})");
  EXPECT_THAT(ClaimOutput(out_, "jobs/two", /*take_over=*/true), IsOk());
  EXPECT_TRUE(fs::exists(File("replaced/unnamed/checkpoints/step-1-g1-0/state.json")));
  EXPECT_EQ(std::distance(fs::directory_iterator(dir_.path()), {}), 1);
}

TEST_F(OutputFolderTest, AMarkThatCannotBeReadIsNobodysLicence) {
  for (const char* mark :
       {"", "[]", "{}", R"({"job": "../x"})", R"({"job": "jobs/a/b"})", R"({"job": "jobs/.."})"}) {
    Write("d2g-job.json", mark);
    EXPECT_THAT(ClaimOutput(out_, "jobs/one", /*take_over=*/true),
                StatusIs(kRefused, HasSubstr(File("d2g-job.json") + " does not say")))
        << mark;
  }
}

// A volume that is away is not a folder of somebody else's: a link that leads to itself stands for
// what the system refuses to read, even to root.
TEST_F(OutputFolderTest, WhatTheSystemDoesNotLetBeReadIsNobodysVerdict) {
  const auto cannot_read = [](const std::string& file) {
    return StatusIs(absl::StatusCode::kInternal, HasSubstr(file));
  };
  fs::create_directories(out_);
  fs::create_symlink("d2g-job.json", File("d2g-job.json"));
  EXPECT_THAT(ClaimOutput(out_, "jobs/one"), cannot_read(File("d2g-job.json")));
  fs::remove(File("d2g-job.json"));
  fs::create_symlink("checkpoints", File("checkpoints"));
  EXPECT_THAT(ClaimOutput(out_, "jobs/one"), cannot_read(File("checkpoints")));
  fs::remove(File("checkpoints"));
  fs::create_symlink("audit", File("audit"));
  EXPECT_THAT(ClaimOutput(out_, "jobs/one"), cannot_read(File("audit")));
  fs::remove(File("audit"));
  fs::create_directories(File("export"));
  fs::create_symlink("d2g.json", File("export/d2g.json"));
  EXPECT_THAT(CheckReplaceable(File("export"), "jobs/one", "export"),
              cannot_read(File("export/d2g.json")));
  EXPECT_THAT(ClaimOutput(out_, "jobs/one"), cannot_read(File("export/d2g.json")));
}

TEST_F(OutputFolderTest, NobodyClaimsWithoutAName) {
  for (const char* job : {"", "jobs/", "one", "jobs/.."}) {
    EXPECT_THAT(ClaimOutput(out_, job), StatusIs(absl::StatusCode::kInvalidArgument)) << job;
  }
  EXPECT_FALSE(fs::exists(out_));
}

TEST_F(OutputFolderTest, OfJobsThatClaimAtOnceOneWins) {
  std::atomic<int> won{0};
  std::vector<std::thread> claims;
  for (int k = 0; k < 8; ++k) {
    claims.emplace_back([&, k] { won += ClaimOutput(out_, "jobs/" + std::to_string(k)).ok(); });
  }
  for (std::thread& claim : claims) claim.join();
  EXPECT_EQ(won, 1);
  EXPECT_EQ(std::distance(fs::directory_iterator(out_), {}), 1);
}

TEST_F(OutputFolderTest, FindsTheFolderAround) {
  ASSERT_THAT(ClaimOutput(out_, "jobs/one"), IsOk());
  EXPECT_EQ(FindOutputAround(File("sub/deep")).job, "jobs/one");
  EXPECT_TRUE(FindOutputAround(out_).source.empty()) << "around, not at";
}

TEST_F(OutputFolderTest, OnlyAnExportOfTheSameJobIsReplaceable) {
  const std::string path = File("export");
  const auto check = [&] { return CheckReplaceable(path, "jobs/one", "SHOWN"); };
  EXPECT_THAT(check(), IsOk());
  fs::create_directories(path);
  EXPECT_THAT(check(), IsOk());
  Write("export/mine.txt", "mine");
  EXPECT_THAT(check(), StatusIs(kRefused, HasSubstr("SHOWN holds mine.txt")));
  Write("export/d2g.json", R"({"job": "jobs/two"})");
  EXPECT_THAT(check(), StatusIs(kRefused, HasSubstr("SHOWN is an export of jobs/two")));
  Write("export/d2g.json", R"({"job": "jobs/one"})");
  EXPECT_THAT(check(), IsOk());
  Write("export/d2g.json", "not JSON");
  EXPECT_THAT(check(), StatusIs(kRefused, HasSubstr("SHOWN holds ")));
}

TEST_F(OutputFolderTest, ALinkIsJudgedByWhatItShows) {
  const std::string path = File("export");
  Write("elsewhere/mine.txt", "mine");
  fs::create_directory_symlink(File("elsewhere"), path);
  EXPECT_THAT(CheckReplaceable(path, "jobs/one", path),
              StatusIs(kRefused, HasSubstr("holds mine.txt")));
  fs::remove_all(File("elsewhere"));
  EXPECT_THAT(CheckReplaceable(path, "jobs/one", path), IsOk());
}

}  // namespace
}  // namespace d2g::common
