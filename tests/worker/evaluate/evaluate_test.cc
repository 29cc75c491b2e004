#include "worker/evaluate/evaluate.h"

#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <google/protobuf/util/json_util.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "model/folder/model_folder.h"
#include "model/text_to_image.h"
#include "services/common/file_io.h"
#include "services/common/file_manifest.h"
#include "services/common/prompts.h"
#include "tests/testing/process.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/worker/evaluate/simulated_triples.h"
#include "worker/distil/discriminator.h"

namespace d2g::evaluate {
namespace {

using coordinator::v1::EvaluateWork;
using coordinator::v1::EvaluationReport;
using d2g::testing::IsOk;
using d2g::testing::SourcePath;
using d2g::testing::StatusIs;
using d2g::testing::TempDir;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// 24 held-out triples of the demo teacher (four steps, so that they are quick to make) and a
// student that is the teacher's own U-Net.
class EvaluateTest : public ::testing::Test {
 protected:
  static constexpr int64_t kPictures = 24;
  static constexpr int64_t kEvery = 4;

  void SetUp() override {
    at::set_num_threads(1);
    const std::string path = SourcePath("demo/teacher");
    ASSERT_OK_AND_ASSIGN(const model::ModelFolder folder, model::InspectModelFolder(path));
    ASSERT_OK_AND_ASSIGN(const std::string text, common::ReadFile(SourcePath("demo/prompts.txt")));
    ASSERT_OK_AND_ASSIGN(const common::PromptLines list, common::ParsePromptList(text));
    // Few prompts, so that some have several pictures.
    for (size_t i = 0; i < 8; ++i) prompts_.push_back(list.lines[i * 57]);

    work_.set_job("jobs/1");
    work_.mutable_spec()->mutable_teacher()->set_path(path);
    work_.mutable_spec()->set_output_dir(dir_.path());
    auto* evaluate = work_.mutable_spec()->mutable_evaluate();
    evaluate->set_pictures(kPictures);
    evaluate->set_evaluator_path(SourcePath("demo/evaluator"));
    // The median of so many is not moved by what else the machine does for a moment.
    evaluate->set_timing_repeats(5);
    evaluate->set_grid_columns(5);
    auto* recipe = work_.mutable_recipe();
    recipe->set_teacher_digest(folder.digest);
    recipe->set_prompt_count(static_cast<int64_t>(prompts_.size()));
    recipe->mutable_solver()->set_kind("ddim");
    recipe->mutable_solver()->set_steps(4);
    recipe->mutable_solver()->set_guidance(3);
    recipe->set_latent_channels(folder.latent_channels);
    recipe->set_latent_height(folder.latent_height);
    recipe->set_latent_width(folder.latent_width);
    recipe->set_storage_dtype(common::v1::DTYPE_FP16);
    recipe->set_seed(3);
    recipe->set_block_size(16);
    recipe->set_holdout_every(kEvery);
    recipe->set_shard_count(2);
    auto* range = work_.add_sealed();
    range->set_begin(0);
    range->set_end(kPictures * kEvery);
    work_.set_checkpoint_path(dir_.File("checkpoint"));
    work_.set_checkpoint_step(5);

    const model::TextToImageModel teacher = model::TextToImageModel::Load(path);
    triples_ = std::make_unique<SimulatedTriples>(work_.recipe());
    Simulate(teacher);
    std::filesystem::create_directories(dir_.File("checkpoint"));
    model::WriteSafetensors(dir_.File("checkpoint/ema.safetensors"), teacher.unet().parameters());
    const distil::Discriminator discriminator(teacher.unet(), 0, 1, at::kCPU);
    model::WriteSafetensors(dir_.File("checkpoint/discriminator.safetensors"),
                            discriminator.parameters());
    std::ofstream(dir_.File("checkpoint/state.json"))
        << R"({"step": 5, "t0": 999, "parametrization": "x0"})";
    ASSERT_OK_AND_ASSIGN(const auto files, common::DescribeFiles(dir_.File("checkpoint"),
                                                                 {"state.json", "ema.safetensors",
                                                                  "discriminator.safetensors"}));
    ASSERT_THAT(common::WriteFileAtomically(dir_.File("checkpoint/manifest.json"),
                                            common::FormatManifest(files)),
                IsOk());
  }

  void Simulate(const model::TextToImageModel& teacher) {
    const auto& recipe = work_.recipe();
    std::vector<float> noise;
    std::vector<std::string> prompts;
    for (int64_t i = 0; i < kPictures; ++i) {
      const std::vector<float> z = triples_->Noise(i * kEvery);
      noise.insert(noise.end(), z.begin(), z.end());
      prompts.push_back(prompts_[static_cast<size_t>(
          dataset::PromptIndexOf(recipe.seed(), i * kEvery, recipe.prompt_count()))]);
    }
    const at::Tensor z = at::tensor(noise).view(
        {kPictures, recipe.latent_channels(), recipe.latent_height(), recipe.latent_width()});
    const at::Tensor x = teacher
                             .Solve(z, teacher.EncodePrompts(prompts), teacher.EncodePrompts({""}),
                                    {.steps = 4, .guidance = 3})
                             .contiguous();
    for (int64_t i = 0; i < kPictures; ++i) {
      const float* data = x.const_data_ptr<float>() + i * x[0].numel();
      triples_->Add(i * kEvery, std::vector<float>(data, data + x[0].numel()));
    }
  }

  absl::StatusOr<EvaluationReport> Run() {
    return RunEvaluate(
        work_, prompts_,
        [this](int shard, const std::vector<int64_t>& indices) {
          return triples_->Read(shard, indices);
        },
        "cpu", &context_);
  }

  static const EvaluationReport::Measure& Find(const EvaluationReport::Row& row,
                                               const std::string& name) {
    for (const auto& measure : row.measures()) {
      if (measure.name() == name) return measure;
    }
    ADD_FAILURE() << row.model() << " lacks " << name;
    return EvaluationReport::Measure::default_instance();
  }

  TempDir dir_;
  std::vector<std::string> prompts_;
  EvaluateWork work_;
  std::unique_ptr<SimulatedTriples> triples_;
  lease::TaskContext context_;
};

TEST_F(EvaluateTest, ReportsEveryModelInFiguresAndAPicture) {
  work_.mutable_spec()->mutable_train()->mutable_gan()->set_weight(0.1);
  ASSERT_OK_AND_ASSIGN(const EvaluationReport report, Run());
  ASSERT_EQ(report.rows_size(), 3);
  EXPECT_EQ(report.rows(0).model(), "teacher_4");
  EXPECT_EQ(report.rows(1).model(), "teacher_1");
  EXPECT_EQ(report.rows(2).model(), "student_1");
  for (const auto& row : report.rows()) {
    EXPECT_EQ(row.pictures(), kPictures);
    for (const char* name : {"frechet_distance", "class_agreement", "paired_distance", "diversity",
                             "seconds_per_picture", "unet_seconds", "decode_seconds"}) {
      const auto& measure = Find(row, name);
      EXPECT_LE(measure.low(), measure.value()) << row.model() << " " << name;
      EXPECT_GE(measure.high(), measure.value()) << row.model() << " " << name;
    }
    EXPECT_GT(Find(row, "unet_seconds").value(), 0);
  }
  EXPECT_EQ(Find(report.rows(0), "paired_distance").value(), 0);
  // Guidance sets the teacher's own single step apart from the student's, which has none.
  EXPECT_GT(Find(report.rows(1), "paired_distance").value(),
            Find(report.rows(2), "paired_distance").value());
  EXPECT_GT(Find(report.rows(0), "unet_seconds").value(),
            Find(report.rows(2), "unet_seconds").value());
  const double expected = 1 - Find(report.rows(2), "paired_distance").value() /
                                  Find(report.rows(1), "paired_distance").value();
  EXPECT_NEAR(report.gap_closed().at("paired_distance"), expected, 1e-6);
  // An untrained discriminator's logit is 0: it tells nothing right.
  EXPECT_EQ(report.discriminator().at("accuracy"), 0);
  EXPECT_TRUE(report.discriminator().contains("accuracy_noise_shuffled"));
  EXPECT_TRUE(report.discriminator().contains("accuracy_text_shuffled"));
  EXPECT_EQ(report.checkpoint_step(), 5);

  EXPECT_EQ(report.grid_path(), dir_.File("evaluation/grid.png"));
  EXPECT_GT(std::filesystem::file_size(report.grid_path()), 1000);
  ASSERT_OK_AND_ASSIGN(const std::string text,
                       common::ReadFile(dir_.File("evaluation/report.json")));
  EvaluationReport written;
  ASSERT_TRUE(google::protobuf::util::JsonStringToMessage(text, &written).ok());
  EXPECT_EQ(written.SerializeAsString().size(), report.SerializeAsString().size());
  EXPECT_GE(context_.progress(), 3 * kPictures / 32);
}

TEST_F(EvaluateTest, GivesTheSameQualityEachTime) {
  ASSERT_OK_AND_ASSIGN(const EvaluationReport a, Run());
  ASSERT_OK_AND_ASSIGN(const EvaluationReport b, Run());
  EXPECT_TRUE(a.discriminator().empty());
  for (const char* name : {"frechet_distance", "class_agreement", "paired_distance", "diversity"}) {
    EXPECT_EQ(Find(a.rows(2), name).SerializeAsString(), Find(b.rows(2), name).SerializeAsString());
  }
}

TEST_F(EvaluateTest, LeavesOutWhatThePromptsCannotShow) {
  // As many prompts as triples, none of which names a class.
  prompts_.clear();
  for (int64_t i = 0; i < kPictures * kEvery; ++i) prompts_.push_back(absl::StrCat("thing ", i));
  work_.mutable_recipe()->set_prompt_count(static_cast<int64_t>(prompts_.size()));
  triples_ = std::make_unique<SimulatedTriples>(work_.recipe());
  Simulate(model::TextToImageModel::Load(work_.spec().teacher().path()));
  ASSERT_OK_AND_ASSIGN(const EvaluationReport report, Run());
  for (const auto& row : report.rows()) {
    std::vector<std::string> names;
    for (const auto& measure : row.measures()) names.push_back(measure.name());
    EXPECT_THAT(names, ElementsAre("frechet_distance", "paired_distance", "seconds_per_picture",
                                   "unet_seconds", "decode_seconds"));
  }
  EXPECT_EQ(report.gap_closed().size(), 2);
}

TEST_F(EvaluateTest, TheTeachersSingleStepStartsFromNoiseWhateverTheSpacing) {
  ASSERT_OK_AND_ASSIGN(const EvaluationReport trailing, Run());
  work_.mutable_recipe()->mutable_solver()->set_timestep_spacing("leading");
  ASSERT_OK_AND_ASSIGN(const EvaluationReport leading, Run());
  EXPECT_EQ(Find(trailing.rows(1), "paired_distance").value(),
            Find(leading.rows(1), "paired_distance").value());
}

TEST_F(EvaluateTest, SolutionsOfOneStepAreTheTeachersOnlyRow) {
  work_.mutable_recipe()->mutable_solver()->set_steps(1);
  ASSERT_OK_AND_ASSIGN(const EvaluationReport report, Run());
  ASSERT_EQ(report.rows_size(), 2);
  EXPECT_EQ(report.rows(0).model(), "teacher_1");
  EXPECT_EQ(Find(report.rows(0), "paired_distance").value(), 0);
  EXPECT_EQ(report.rows(1).model(), "student_1");
  EXPECT_TRUE(report.gap_closed().empty());
  EXPECT_GT(std::filesystem::file_size(report.grid_path()), 1000);
}

TEST_F(EvaluateTest, RefusesAnotherTeacher) {
  work_.mutable_recipe()->set_teacher_digest("xxh3-128:00");
  EXPECT_THAT(Run(), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("xxh3-128:00")));
}

TEST_F(EvaluateTest, RefusesTheFolderOfAnotherJob) {
  const std::string mark = dir_.File("d2g-job.json");
  ASSERT_THAT(common::WriteFileAtomically(mark, R"({"job": "jobs/2"})"), IsOk());
  EXPECT_THAT(Run(), StatusIs(absl::StatusCode::kFailedPrecondition,
                              HasSubstr("holds the output of jobs/2")));
  EXPECT_FALSE(std::filesystem::exists(dir_.File("evaluation")));
}

TEST_F(EvaluateTest, RefusesACheckpointWhoseBytesChanged) {
  work_.mutable_spec()->mutable_train()->mutable_gan()->set_weight(0.1);
  for (const char* file : {"ema.safetensors", "discriminator.safetensors"}) {
    const std::string path = dir_.File("checkpoint/") + file;
    ASSERT_OK_AND_ASSIGN(const std::string bytes, common::ReadFile(path));
    std::string flipped = bytes;
    flipped[flipped.size() / 2] ^= 1;
    ASSERT_THAT(common::WriteFileAtomically(path, flipped), IsOk());
    EXPECT_THAT(Run(), StatusIs(absl::StatusCode::kDataLoss, HasSubstr(path)));
    ASSERT_TRUE(std::filesystem::remove(path));
    EXPECT_THAT(Run(), StatusIs(absl::StatusCode::kNotFound, HasSubstr(path)));
    ASSERT_THAT(common::WriteFileAtomically(path, bytes), IsOk());
  }
  EXPECT_FALSE(std::filesystem::exists(dir_.File("evaluation/report.json")));
}

TEST_F(EvaluateTest, NamesAMissingEvaluator) {
  work_.mutable_spec()->mutable_evaluate()->set_evaluator_path(dir_.File("nowhere"));
  // The whole folder: this machine may have lost a mount.
  EXPECT_THAT(Run(), StatusIs(absl::StatusCode::kNotFound, HasSubstr("nowhere")));
  ASSERT_TRUE(std::filesystem::create_directory(dir_.File("nowhere")));
  EXPECT_THAT(Run(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("nowhere")));
  EXPECT_FALSE(std::filesystem::exists(dir_.File("evaluation/report.json")));
}

TEST_F(EvaluateTest, StopsWhenCancelled) {
  context_.Cancel(lease::CancelReason::kStopping);
  EXPECT_THAT(Run(), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_FALSE(std::filesystem::exists(dir_.File("evaluation/report.json")));
}

}  // namespace
}  // namespace d2g::evaluate
