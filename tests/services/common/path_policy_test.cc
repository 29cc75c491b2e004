// Roots and folders that jobs may not touch.
#include "services/common/path_policy.h"

#include <algorithm>
#include <filesystem>
#include <string>

#include "CLI/CLI.hpp"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
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
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr absl::StatusCode kRefused = absl::StatusCode::kPermissionDenied;

class PathPolicyTest : public ::testing::Test {
 protected:
  PathPolicyTest() {
    for (const char* folder : {"models/t", "models2/t", "jobs", "elsewhere/t", "data/store-0"}) {
      fs::create_directories(dir_.File(folder));
    }
    policy_.model_roots = {dir_.File("models")};
    policy_.output_roots = {dir_.File("jobs")};
    policy_.keep_out = {dir_.File("data/store-0")};
  }
  coordinator::v1::JobSpec Spec(const std::string& teacher, const std::string& output) {
    coordinator::v1::JobSpec spec;
    spec.mutable_teacher()->set_path(dir_.File(teacher));
    spec.set_output_dir(dir_.File(output));
    return spec;
  }
  // What is said of the output folder alone, without roots.
  absl::Status Output(const std::string& output) {
    PathPolicy policy = policy_;
    policy.output_roots.clear();
    return CheckJobPaths(policy, Spec("models/t", output));
  }

  const TempDir dir_;
  PathPolicy policy_;
};

TEST(PathsTest, RelationsEndAtFolders) {
  EXPECT_EQ(RelationOf("/a/b", "/a/b"), "is");
  EXPECT_EQ(RelationOf("/a/b", "/a"), "lies within");
  EXPECT_EQ(RelationOf("/a", "/a/b"), "contains");
  EXPECT_EQ(RelationOf("/a/b", "/"), "lies within");
  EXPECT_EQ(RelationOf("/ab", "/a"), "");
  EXPECT_EQ(RelationOf("/a", "/ab"), "");
}

TEST_F(PathPolicyTest, WithoutRootsEverythingMayBeNamed) {
  EXPECT_THAT(CheckJobPaths({}, Spec("elsewhere/t", "anywhere")), IsOk());
}

TEST_F(PathPolicyTest, RootsConfineAndErrorsNamePathAndRoot) {
  EXPECT_THAT(CheckJobPaths(policy_, Spec("models/t", "jobs/new/deep")), IsOk());
  EXPECT_THAT(CheckModelPath(policy_, dir_.File("models2/t")),
              StatusIs(kRefused, AllOf(HasSubstr(dir_.File("models2/t")),
                                       HasSubstr("--model-root " + dir_.File("models")))));
  const auto violations = PathViolations(policy_, Spec("elsewhere/t", "out"));
  ASSERT_EQ(violations.size(), 2u);
  EXPECT_EQ(violations[0].field, "spec.teacher.path");
  EXPECT_EQ(violations[1].field, "spec.output_dir");
  EXPECT_THAT(violations[1].description,
              AllOf(HasSubstr(dir_.File("out")), HasSubstr("--output-root " + dir_.File("jobs"))));
  EXPECT_THAT(CheckModelPath(policy_, dir_.File("models/../elsewhere/t")), StatusIs(kRefused));
}

TEST_F(PathPolicyTest, EveryFolderThatTheJobReadsIsConfined) {
  auto spec = Spec("models/t", "jobs/a");
  spec.mutable_train()->mutable_regression()->set_features_path(dir_.File("elsewhere/t"));
  spec.mutable_evaluate()->set_evaluator_path(dir_.File("elsewhere/t"));
  EXPECT_THAT(PathViolations(policy_, spec), IsEmpty()) << "not read";
  spec.mutable_train()->mutable_regression()->set_features_weight(1);
  spec.mutable_evaluate()->set_pictures(1);
  const auto violations = PathViolations(policy_, spec);
  ASSERT_EQ(violations.size(), 2u);
  EXPECT_EQ(violations[0].field, "spec.train.regression.features_path");
  EXPECT_EQ(violations[1].field, "spec.evaluate.evaluator_path");
}

TEST_F(PathPolicyTest, LinksCountAsWhereTheyLead) {
  fs::create_directory_symlink(dir_.File("elsewhere/t"), dir_.File("models/link"));
  EXPECT_THAT(CheckModelPath(policy_, dir_.File("models/link")),
              StatusIs(kRefused, HasSubstr("which is " + dir_.File("elsewhere/t"))));
  fs::create_directory_symlink(dir_.File("models"), dir_.File("alias"));
  EXPECT_THAT(CheckModelPath(policy_, dir_.File("alias/t")), IsOk());
  policy_.model_roots = {dir_.File("alias")};
  EXPECT_THAT(CheckModelPath(policy_, dir_.File("models/t")), IsOk());
  // Whatever is made behind it later would be followed.
  fs::create_directory_symlink(dir_.File("nothing"), dir_.File("jobs/link"));
  EXPECT_THAT(CheckJobPaths(policy_, Spec("models/t", "jobs/link/out")),
              StatusIs(kRefused, HasSubstr("leads nowhere")));
}

TEST_F(PathPolicyTest, AFolderOfTheOutputMayNotLeadOutOfTheRoot) {
  fs::create_directories(dir_.File("jobs/a"));
  fs::create_directory_symlink(dir_.File("elsewhere"), dir_.File("jobs/a/checkpoints"));
  EXPECT_THAT(CheckJobPaths(policy_, Spec("models/t", "jobs/a")),
              StatusIs(kRefused, AllOf(HasSubstr(dir_.File("jobs/a/checkpoints")),
                                       HasSubstr("--output-root"))));
}

TEST_F(PathPolicyTest, AnOutputMeetsNeitherInputsNorServices) {
  EXPECT_THAT(Output("out"), IsOk());
  EXPECT_THAT(Output("models/t"), StatusIs(kRefused, HasSubstr("reads as teacher.path")));
  EXPECT_THAT(Output("models/t/out"), StatusIs(kRefused, HasSubstr("lies within")));
  EXPECT_THAT(Output("models"), StatusIs(kRefused, HasSubstr("contains")));
  EXPECT_THAT(Output("data/store-0"), StatusIs(kRefused, HasSubstr("keeps its own files")));
  EXPECT_THAT(Output("data/store-0/x"), StatusIs(kRefused, HasSubstr(dir_.File("data/store-0"))));
  EXPECT_THAT(Output("data"), StatusIs(kRefused, HasSubstr("contains")));
  EXPECT_THAT(Output("data/out"), IsOk());
  fs::create_directory_symlink(dir_.File("models"), dir_.File("alias"));
  EXPECT_THAT(Output("alias/t/out"), StatusIs(kRefused, HasSubstr("reads as teacher.path")));
}

TEST_F(PathPolicyTest, FlagsRoundTrip) {
  CLI::App app;
  PathPolicy parsed;
  AddPathFlags(&app, &parsed);
  app.parse("--model-root /m/ --model-root /n/../o --output-root /p --keep-out relative");
  EXPECT_THAT(parsed.model_roots, ElementsAre("/m", "/o"));
  EXPECT_THAT(parsed.output_roots, ElementsAre("/p"));
  EXPECT_THAT(parsed.keep_out, ElementsAre((fs::current_path() / "relative").string()));
  auto arguments = PathArguments(parsed);
  CLI::App again;
  PathPolicy copy;
  AddPathFlags(&again, &copy);
  std::reverse(arguments.begin(), arguments.end());  // as CLI11 wants them
  again.parse(arguments);
  EXPECT_EQ(copy.model_roots, parsed.model_roots);
  EXPECT_EQ(copy.output_roots, parsed.output_roots);
  EXPECT_EQ(copy.keep_out, parsed.keep_out);
}

}  // namespace
}  // namespace d2g::common
