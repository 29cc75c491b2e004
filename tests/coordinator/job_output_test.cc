// Where a job may have its output: asked of the real server.
#include "coordinator/spec/job_output.h"

#include <filesystem>
#include <memory>
#include <string>

#include "coordinator/client/client.h"
#include "coordinator/server.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/common/output_folder.h"
#include "services/spec/normal_spec.h"
#include "tests/coordinator/harness.h"
#include "tests/coordinator/input_folders.h"
#include "tests/testing/status_matchers.h"

namespace d2g::coordinator {
namespace {

namespace fs = std::filesystem;
using ::d2g::testing::IsOk;
using ::d2g::testing::StatusIs;
using ::d2g::testing::TempDir;
using ::testing::AllOf;
using ::testing::HasSubstr;
using v1::Job;

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

absl::Time Soon() { return absl::Now() + absl::Seconds(20); }

class JobOutputTest : public ::testing::Test {
 protected:
  void SetUp() override {
    options_.data_dir = dir_.File("data");
    Start();
  }
  void Start() {
    server_.reset();
    auto server = CoordinatorServer::Start(options_);
    ASSERT_THAT(server, IsOk());
    server_ = *std::move(server);
    client_ = std::make_unique<CoordinatorClient>(server_->address());
  }
  absl::StatusOr<Job> Create(const std::string& output, bool overwrite = false,
                             bool validate_only = false) {
    const auto list = client_->UploadPromptList("a dog\na cat\n", Soon());
    EXPECT_THAT(list, IsOk());
    v1::CreateJobRequest request;
    *request.mutable_spec() = SmallSpec();
    inputs_.Fill(request.mutable_spec());
    request.mutable_spec()->mutable_prompts()->set_digest(list->digest());
    request.mutable_spec()->set_output_dir(output);
    request.mutable_spec()->set_overwrite(overwrite);
    request.set_validate_only(validate_only);
    return client_->CreateJob(request, Soon());
  }
  // A job that has ended, of which `output` holds an export.
  std::string EndedJob(const std::string& output) {
    const absl::StatusOr<Job> job = Create(output);
    EXPECT_THAT(job, IsOk());
    v1::SetDesiredStateRequest cancel;
    cancel.set_name(job->name());
    cancel.set_desired_state(Job::DESIRED_STATE_CANCELLED);
    EXPECT_THAT(client_->SetDesiredState(cancel, Soon()), IsOk());
    EXPECT_THAT(common::ClaimOutput(output, job->name()), IsOk());
    WriteTestFile(output + "/export/d2g.json", "{\"job\": \"" + job->name() + "\"}");
    return job->name();
  }
  std::string File(const std::string& name) const { return inputs_.File(name); }

  const TempDir dir_;
  const InputFolders inputs_;
  CoordinatorServerOptions options_;
  std::unique_ptr<CoordinatorServer> server_;
  std::unique_ptr<CoordinatorClient> client_;
};

TEST_F(JobOutputTest, FilesThatNoJobMadeAreRefusedWhateverIsAsked) {
  WriteTestFile(File("output/export/mine.txt"), "mine");
  for (const bool overwrite : {false, true}) {
    EXPECT_THAT(Create(File("output"), overwrite),
                StatusIs(kInvalid, AllOf(HasSubstr("spec.output_dir: \"" + File("output")),
                                         HasSubstr(File("output/export") + " holds mine.txt"))));
  }
  EXPECT_TRUE(fs::exists(File("output/export/mine.txt")));
}

TEST_F(JobOutputTest, AnEndedJobsFolderIsTakenOverOnlyWhenAskedFor) {
  const std::string first = EndedJob(File("output"));
  EXPECT_THAT(Create(File("output")),
              StatusIs(kInvalid, AllOf(HasSubstr("holds the output of " + first),
                                       HasSubstr("set overwrite"))));
  ASSERT_OK_AND_ASSIGN(const Job second, Create(File("output"), /*overwrite=*/true));
  EXPECT_TRUE(second.spec().overwrite());
  // The new one has not ended: now nobody else gets it.
  EXPECT_THAT(Create(File("output"), /*overwrite=*/true),
              StatusIs(kInvalid, HasSubstr("in use by " + second.name())));
}

TEST_F(JobOutputTest, TheMarkCountsAlsoForAJobThatNobodyKnows) {
  ASSERT_THAT(common::ClaimOutput(File("output"), "jobs/elsewhere"), IsOk());
  EXPECT_THAT(Create(File("output")), StatusIs(kInvalid, HasSubstr("jobs/elsewhere")));
  EXPECT_THAT(Create(File("output"), /*overwrite=*/true), IsOk());
}

TEST_F(JobOutputTest, AnEndedJobWhoseFilesAreGoneIsInNobodysWay) {
  EndedJob(File("output"));
  fs::remove_all(File("output"));
  EXPECT_THAT(Create(File("output")), IsOk());
}

TEST_F(JobOutputTest, FoldersInAndAroundAnotherJobsAreRefused) {
  ASSERT_OK_AND_ASSIGN(const Job live, Create(File("live/out")));
  for (const bool overwrite : {false, true}) {
    EXPECT_THAT(Create(File("live/out/sub"), overwrite),
                StatusIs(kInvalid, AllOf(HasSubstr("lies within " + File("live/out")),
                                         HasSubstr(live.name() + ", which has not ended"))));
    EXPECT_THAT(Create(File("live"), overwrite),
                StatusIs(kInvalid, HasSubstr("contains " + File("live/out"))));
  }
  const std::string ended = EndedJob(File("ended/out"));
  EXPECT_THAT(Create(File("ended/out/sub")),
              StatusIs(kInvalid, HasSubstr("lies within the output of " + ended)));
  EXPECT_THAT(
      Create(File("ended")),
      StatusIs(kInvalid, AllOf(HasSubstr("contains " + File("ended/out")), HasSubstr(ended))));
  EXPECT_THAT(Create(File("ended"), /*overwrite=*/true, /*validate_only=*/true), IsOk());
  EXPECT_THAT(Create(File("live/out2"), false, /*validate_only=*/true), IsOk());
}

TEST_F(JobOutputTest, ALinkToAnotherJobsFolderIsThatFolder) {
  fs::create_directories(File("real"));
  fs::create_directory_symlink(File("real"), File("link"));
  ASSERT_OK_AND_ASSIGN(const Job live, Create(File("link")));
  Start();  // what was resolved is remembered
  EXPECT_THAT(Create(File("real")), StatusIs(kInvalid, HasSubstr("in use by " + live.name())));
  EXPECT_THAT(Create(File("real/sub")), StatusIs(kInvalid, HasSubstr(live.name())));
}

TEST_F(JobOutputTest, InputsAndTheCoordinatorsOwnFolderAreRefused) {
  EXPECT_THAT(Create(inputs_.teacher()), StatusIs(kInvalid, HasSubstr("reads as teacher.path")));
  EXPECT_THAT(Create(inputs_.evaluator() + "/sub"),
              StatusIs(kInvalid, HasSubstr("reads as evaluate.evaluator_path")));
  EXPECT_THAT(Create(options_.data_dir), StatusIs(kInvalid, HasSubstr("keeps its own files")));
  EXPECT_THAT(Create(options_.data_dir + "/sub"),
              StatusIs(kInvalid, HasSubstr("lies within " + options_.data_dir)));
  EXPECT_THAT(Create(dir_.path()), StatusIs(kInvalid, HasSubstr("contains " + options_.data_dir)));
}

TEST_F(JobOutputTest, RootsConfineWhatJobsName) {
  options_.paths.model_roots = {inputs_.teacher()};
  options_.paths.output_roots = {File("jobs")};
  Start();
  EXPECT_THAT(Create(File("jobs/a")),
              StatusIs(kInvalid, AllOf(HasSubstr("spec.evaluate.evaluator_path: \"" +
                                                 inputs_.evaluator() + "\" is not within"),
                                       HasSubstr("--model-root " + inputs_.teacher()))));
  options_.paths.model_roots.push_back(inputs_.evaluator());
  Start();
  EXPECT_THAT(Create(File("output")),
              StatusIs(kInvalid, HasSubstr("is not within --output-root " + File("jobs"))));
  EXPECT_THAT(Create(File("jobs/a")), IsOk());
}

TEST(JobOutputStateTest, TheOldJobSaysWhoReplacedItOnceTrainingStarts) {
  Harness harness;
  ASSERT_OK_AND_ASSIGN(const Job old, harness.Create(SmallSpec("/tmp/out")));
  ASSERT_THAT(harness.SetDesired(old.name(), Job::DESIRED_STATE_CANCELLED), IsOk());
  JobProposal proposal;
  proposal.spec = SmallSpec("/tmp/out");
  ASSERT_TRUE(spec::NormalizeSpec(&proposal.spec).empty());
  proposal.teacher = {kTeacher, 4, 8, 8};
  proposal.replaces = old.name();
  ASSERT_OK_AND_ASSIGN(const Job created, harness.Decide([&](ClusterState& state, Moment now) {
    return state.CreateJob(proposal, now);
  }));
  harness.SimulateAll();
  EXPECT_EQ(harness.Get(old.name()).output_replaced_by(), "") << "nothing has moved yet";
  ASSERT_THAT(harness.Join("a", 2), IsOk());
  using Report = v1::GangHeartbeatRequest;
  ASSERT_THAT(harness.BeatGang(Harness::Report("a", Report::AGENT_STATE_IDLE)), IsOk());
  harness.Advance(absl::Seconds(4));
  ASSERT_GT(harness.Get(created.name()).generation(), 0);
  EXPECT_EQ(harness.Get(old.name()).output_replaced_by(), created.name());
  harness.Restart();
  EXPECT_EQ(harness.Get(old.name()).output_replaced_by(), created.name());
}

}  // namespace
}  // namespace d2g::coordinator
