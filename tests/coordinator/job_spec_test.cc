// Every field's limits, defaults, and what takes several fields to decide.
#include "coordinator/spec/job_spec.h"

#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "d2g/common/v1/rule.pb.h"
#include "gmock/gmock.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "gtest/gtest.h"
#include "services/common/path_policy.h"
#include "services/spec/normal_spec.h"
#include "tests/coordinator/harness.h"

namespace d2g::coordinator {
namespace {

using ::testing::HasSubstr;
using v1::JobSpec;

std::string Join(const std::vector<common::FieldViolation>& violations) {
  return absl::StrJoin(violations, "; ", [](std::string* out, const auto& violation) {
    absl::StrAppend(out, violation.field, ": ", violation.description);
  });
}

TEST(JobSpecTest, FillsInTheDefaults) {
  JobSpec spec;
  spec.mutable_teacher()->set_path("/t");
  spec.mutable_prompts()->set_digest(kPrompts);
  spec.mutable_simulate()->set_triples(100'000);
  spec.mutable_train()->set_steps(10'000);
  spec.mutable_simulate()->mutable_solver()->set_compute_dtype(common::v1::DTYPE_FP32);
  spec.set_output_dir("/o");
  ASSERT_EQ(Join(spec::NormalizeSpec(&spec)), "");
  EXPECT_EQ(spec.simulate().solver().compute_dtype(), common::v1::DTYPE_UNSPECIFIED);
  EXPECT_EQ(spec.simulate().solver().kind(), "ddim");
  EXPECT_EQ(spec.simulate().solver().steps(), 50);
  EXPECT_EQ(spec.simulate().solver().guidance(), 3);
  EXPECT_EQ(spec.simulate().block_size(), 4096);
  EXPECT_EQ(spec.simulate().task_size(), 4096);
  EXPECT_EQ(spec.simulate().holdout_every(), 128);
  EXPECT_EQ(spec.simulate().batch_size(), 0);
  EXPECT_EQ(spec.simulate().storage_dtype(), common::v1::DTYPE_FP16);
  EXPECT_EQ(spec.simulate().min_triples(), 6400);
  EXPECT_EQ(spec.train().global_batch(), 64);
  EXPECT_EQ(spec.train().min_ranks(), 1);
  EXPECT_EQ(spec.train().max_ranks(), 0);
  EXPECT_EQ(spec.train().learning_rate(), 5e-4);
  EXPECT_EQ(spec.train().clip_norm(), 1);
  EXPECT_EQ(spec.train().ema_decay(), 0.99);
  EXPECT_EQ(spec.train().checkpoint_every(), 500);
  EXPECT_EQ(spec.train().keep_checkpoints(), 2);
  EXPECT_FALSE(spec.train().has_t0());
  EXPECT_EQ(spec.train().parametrization(), "x0");
  EXPECT_EQ(spec.train().schedule(), "constant");
  EXPECT_EQ(spec.train().regression().pseudo_huber_weight(), 1);
  EXPECT_EQ(spec.train().regression().pseudo_huber_c(), 0.03);
  EXPECT_EQ(spec.train().gan().learning_rate(), 5e-4);
  EXPECT_DOUBLE_EQ(spec.train().gan().backbone_learning_rate(), 5e-5);
  EXPECT_EQ(spec.evaluate().grid_columns(), 10);
  EXPECT_EQ(spec.evaluate().timing_repeats(), 20);
  JobSpec again = spec;
  EXPECT_EQ(Join(spec::NormalizeSpec(&again)), "") << "defaults must be acceptable";
  EXPECT_EQ(again.SerializeAsString(), spec.SerializeAsString());
}

TEST(JobSpecTest, AShortRunHasTenCheckpoints) {
  JobSpec spec = SmallSpec();
  spec.mutable_train()->clear_checkpoint_every();
  spec.mutable_train()->set_steps(95);
  ASSERT_EQ(Join(spec::NormalizeSpec(&spec)), "");
  EXPECT_EQ(spec.train().checkpoint_every(), 10);
}

TEST(JobSpecTest, NoRegressionTermIsNoDefault) {
  JobSpec spec = SmallSpec();
  spec.mutable_train()->mutable_regression()->set_pseudo_huber_weight(0);
  EXPECT_THAT(Join(spec::NormalizeSpec(&spec)), HasSubstr("G would have no regression term"));
}

TEST(JobSpecTest, NoGuidanceIsNotTheDefault) {
  JobSpec spec = SmallSpec();
  spec.mutable_simulate()->mutable_solver()->set_guidance(0);
  ASSERT_EQ(Join(spec::NormalizeSpec(&spec)), "");
  EXPECT_EQ(spec.simulate().solver().guidance(), 0);
}

TEST(JobSpecTest, PathsAreMadeNormal) {
  JobSpec spec = SmallSpec();
  spec.mutable_teacher()->set_path("/data//teachers/./a/");
  spec.set_output_dir("/data/x/../out/");
  ASSERT_EQ(Join(spec::NormalizeSpec(&spec)), "");
  EXPECT_EQ(spec.teacher().path(), "/data/teachers/a");
  EXPECT_EQ(spec.output_dir(), "/data/out");
  spec.set_output_dir("/data/..");
  EXPECT_THAT(Join(spec::NormalizeSpec(&spec)), HasSubstr("spec.output_dir"));
}

TEST(JobSpecTest, TheThresholdCountsWhatTrainingMayRead) {
  JobSpec spec = SmallSpec();
  ASSERT_EQ(Join(spec::NormalizeSpec(&spec)), "");
  EXPECT_EQ(TrainingThreshold(spec), 80);
  spec.mutable_simulate()->set_min_triples(128);
  EXPECT_EQ(TrainingThreshold(spec), 112) << "16 of 128 are held out";
}

struct Case {
  const char* name;
  void (*change)(JobSpec*);
  // Field and part of the description that one violation must have.
  const char* field;
  const char* says;
};

class BadSpecTest : public ::testing::TestWithParam<Case> {};

TEST_P(BadSpecTest, NamesFieldValueAndLimit) {
  JobSpec spec = SmallSpec();
  GetParam().change(&spec);
  const auto violations = spec::NormalizeSpec(&spec);
  ASSERT_FALSE(violations.empty());
  bool found = false;
  for (const auto& violation : violations) {
    if (violation.field != GetParam().field) continue;
    found = true;
    EXPECT_THAT(violation.description, HasSubstr(GetParam().says));
  }
  EXPECT_TRUE(found) << Join(violations);
}

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

INSTANTIATE_TEST_SUITE_P(
    Fields, BadSpecTest,
    ::testing::ValuesIn(std::vector<Case>{
        {"LongName", [](JobSpec* s) { s->set_display_name(std::string(64, 'x')); },
         "spec.display_name", "64 characters; at most 63"},
        {"ControlCharacter", [](JobSpec* s) { s->set_display_name("a\nb"); }, "spec.display_name",
         "control"},
        {"C1Character",
         [](JobSpec* s) {
           s->set_display_name(
               "a\xc2\x9b"
               "2J");
         },
         "spec.display_name", "\"a\\u009b2J\" holds a control character"},
        {"BidiCharacter",
         [](JobSpec* s) {
           s->set_display_name(
               "a\xe2\x80\xae"
               "b");
         },
         "spec.display_name", "control"},
        {"EscapeInOutputDir", [](JobSpec* s) { s->set_output_dir("/tmp/\x1b[31m"); },
         "spec.output_dir", "\"/tmp/\\u001b[31m\" holds a control character"},
        {"NulInTeacher",
         [](JobSpec* s) { s->mutable_teacher()->set_path(std::string("/tmp/\0x", 7)); },
         "spec.teacher.path", "control character"},
        {"NoTeacher", [](JobSpec* s) { s->mutable_teacher()->clear_path(); }, "spec.teacher.path",
         "required"},
        {"RelativeTeacher", [](JobSpec* s) { s->mutable_teacher()->set_path("t"); },
         "spec.teacher.path", "\"t\" is not an absolute path"},
        {"TeacherDigest", [](JobSpec* s) { s->mutable_teacher()->set_digest("abc"); },
         "spec.teacher.digest", "\"abc\""},
        {"NoPrompts", [](JobSpec* s) { s->mutable_prompts()->clear_digest(); },
         "spec.prompts.digest", "required"},
        {"UpperCaseDigest",
         [](JobSpec* s) {
           s->mutable_prompts()->set_digest("xxh3-128:00112233445566778899AABBCCDDEEFF");
         },
         "spec.prompts.digest", "32 lower-case hex digits"},
        {"DiscriminatorAfterTheGan",
         [](JobSpec* s) {
           s->mutable_train()->mutable_gan()->set_start_step(40);
           s->mutable_train()->mutable_gan()->set_discriminator_start_step(50);
         },
         "spec.train.gan.discriminator_start_step", "50 is not from 0 to 40"},
        {"NoTriples", [](JobSpec* s) { s->mutable_simulate()->set_triples(0); },
         "spec.simulate.triples", "0 is not from 1 to 1000000000"},
        {"NegativeTriples", [](JobSpec* s) { s->mutable_simulate()->set_triples(-5); },
         "spec.simulate.triples", "-5"},
        {"TooManyTriples", [](JobSpec* s) { s->mutable_simulate()->set_triples(1'000'000'001); },
         "spec.simulate.triples", "1000000001"},
        {"TooFewToTrain", [](JobSpec* s) { s->mutable_simulate()->set_triples(9); },
         "spec.simulate.triples", "leave 7 triples for training"},
        {"MinTriplesLow", [](JobSpec* s) { s->mutable_simulate()->set_min_triples(79); },
         "spec.simulate.min_triples", "79 is not from 80 to 128"},
        {"MinTriplesHigh", [](JobSpec* s) { s->mutable_simulate()->set_min_triples(129); },
         "spec.simulate.min_triples", "129"},
        {"Solver", [](JobSpec* s) { s->mutable_simulate()->mutable_solver()->set_kind("plms"); },
         "spec.simulate.solver.kind", "\"plms\" is not one of ddim, euler, dpmpp_2m, heun"},
        {"SolverSteps",
         [](JobSpec* s) { s->mutable_simulate()->mutable_solver()->set_steps(1001); },
         "spec.simulate.solver.steps", "1001 is not from 1 to 1000"},
        {"Guidance", [](JobSpec* s) { s->mutable_simulate()->mutable_solver()->set_guidance(-1); },
         "spec.simulate.solver.guidance", "-1"},
        {"GuidanceNan",
         [](JobSpec* s) { s->mutable_simulate()->mutable_solver()->set_guidance(kNan); },
         "spec.simulate.solver.guidance", "nan"},
        {"Spacing",
         [](JobSpec* s) { s->mutable_simulate()->mutable_solver()->set_timestep_spacing("odd"); },
         "spec.simulate.solver.timestep_spacing", "trailing, leading, linspace"},
        {"SmallBlock", [](JobSpec* s) { s->mutable_simulate()->set_block_size(15); },
         "spec.simulate.block_size", "15 is not from 16 to 65536"},
        {"BigBlock", [](JobSpec* s) { s->mutable_simulate()->set_block_size(65537); },
         "spec.simulate.block_size", "65537"},
        {"AllHeldOut", [](JobSpec* s) { s->mutable_simulate()->set_holdout_every(1); },
         "spec.simulate.holdout_every", "1 is not from 2"},
        {"StorageType",
         [](JobSpec* s) {
           s->mutable_simulate()->set_storage_dtype(static_cast<common::v1::DType>(9));
         },
         "spec.simulate.storage_dtype", "9"},
        {"ComputeType",
         [](JobSpec* s) {
           s->mutable_simulate()->mutable_solver()->set_compute_dtype(
               static_cast<common::v1::DType>(9));
         },
         "spec.simulate.solver.compute_dtype", "9"},
        {"BatchSize", [](JobSpec* s) { s->mutable_simulate()->set_batch_size(-1); },
         "spec.simulate.batch_size", "-1 is not from 0 to 4096"},
        {"TaskSize", [](JobSpec* s) { s->mutable_simulate()->set_task_size(33); },
         "spec.simulate.task_size", "33 is not from 1 to 32"},
        {"NoSteps", [](JobSpec* s) { s->mutable_train()->set_steps(0); }, "spec.train.steps",
         "0 is not from 1"},
        {"GlobalBatch", [](JobSpec* s) { s->mutable_train()->set_global_batch(-64); },
         "spec.train.global_batch", "-64"},
        {"MicroBatch", [](JobSpec* s) { s->mutable_train()->set_micro_batch(9); },
         "spec.train.micro_batch", "9 is not from 0 to 8"},
        {"MinRanks", [](JobSpec* s) { s->mutable_train()->set_min_ranks(9); },
         "spec.train.min_ranks", "9 is not from 1 to 8"},
        {"MaxRanks", [](JobSpec* s) { s->mutable_train()->set_max_ranks(1); },
         "spec.train.max_ranks", "1 is not from 2 to 8"},
        {"LearningRate", [](JobSpec* s) { s->mutable_train()->set_learning_rate(-1e-3); },
         "spec.train.learning_rate", "-0.001 is not above 0"},
        {"LearningRateInfinite",
         [](JobSpec* s) { s->mutable_train()->set_learning_rate(kInfinity); },
         "spec.train.learning_rate", "inf"},
        {"WarmUp", [](JobSpec* s) { s->mutable_train()->set_warmup_steps(101); },
         "spec.train.warmup_steps", "101 is not from 0 to 100"},
        {"ClipNorm", [](JobSpec* s) { s->mutable_train()->set_clip_norm(-1); },
         "spec.train.clip_norm", "-1"},
        {"EmaDecay", [](JobSpec* s) { s->mutable_train()->set_ema_decay(1); },
         "spec.train.ema_decay", "1 is not below 1"},
        {"CheckpointEvery", [](JobSpec* s) { s->mutable_train()->set_checkpoint_every(-1); },
         "spec.train.checkpoint_every", "-1"},
        {"KeepCheckpoints", [](JobSpec* s) { s->mutable_train()->set_keep_checkpoints(1001); },
         "spec.train.keep_checkpoints", "1001"},
        {"T0", [](JobSpec* s) { s->mutable_train()->set_t0(-1); }, "spec.train.t0", "-1"},
        {"Parametrization", [](JobSpec* s) { s->mutable_train()->set_parametrization("eps"); },
         "spec.train.parametrization", "\"eps\" is not one of x0, sample"},
        {"Schedule", [](JobSpec* s) { s->mutable_train()->set_schedule("step"); },
         "spec.train.schedule", "constant, cosine"},
        {"WeightDecay", [](JobSpec* s) { s->mutable_train()->set_weight_decay(2); },
         "spec.train.weight_decay", "2"},
        {"HuberWeight",
         [](JobSpec* s) { s->mutable_train()->mutable_regression()->set_pseudo_huber_weight(-1); },
         "spec.train.regression.pseudo_huber_weight", "-1"},
        {"HuberC",
         [](JobSpec* s) { s->mutable_train()->mutable_regression()->set_pseudo_huber_c(-1); },
         "spec.train.regression.pseudo_huber_c", "-1"},
        {"MseWeight",
         [](JobSpec* s) { s->mutable_train()->mutable_regression()->set_mse_weight(-1); },
         "spec.train.regression.mse_weight", "-1"},
        {"FeaturesPath",
         [](JobSpec* s) { s->mutable_train()->mutable_regression()->set_features_weight(1); },
         "spec.train.regression.features_path", "required"},
        {"GanWeight", [](JobSpec* s) { s->mutable_train()->mutable_gan()->set_weight(-0.5); },
         "spec.train.gan.weight", "-0.5"},
        {"GanStart", [](JobSpec* s) { s->mutable_train()->mutable_gan()->set_start_step(101); },
         "spec.train.gan.start_step", "101"},
        {"GanRamp", [](JobSpec* s) { s->mutable_train()->mutable_gan()->set_ramp_steps(-1); },
         "spec.train.gan.ramp_steps", "-1 is not from 0"},
        {"GanRampTooLong",
         [](JobSpec* s) { s->mutable_train()->mutable_gan()->set_ramp_steps(101); },
         "spec.train.gan.ramp_steps", "101 is not from 0 to 100"},
        {"MostSteps", [](JobSpec* s) { s->mutable_train()->set_steps(INT64_MAX); },
         "spec.train.steps", "9223372036854775807"},
        {"GanDecay", [](JobSpec* s) { s->mutable_train()->mutable_gan()->set_decay_steps(101); },
         "spec.train.gan.decay_steps", "101 is not from 0 to 100"},
        {"GanScales", [](JobSpec* s) { s->mutable_train()->mutable_gan()->set_output_scales(17); },
         "spec.train.gan.output_scales", "17 is not from 0 to 16"},
        {"Mismatch", [](JobSpec* s) { s->mutable_train()->mutable_gan()->set_mismatch_weight(-1); },
         "spec.train.gan.mismatch_weight", "-1"},
        {"Pictures", [](JobSpec* s) { s->mutable_evaluate()->set_pictures(17); },
         "spec.evaluate.pictures", "17 is more than the 16 held-out"},
        {"NegativePictures", [](JobSpec* s) { s->mutable_evaluate()->set_pictures(-1); },
         "spec.evaluate.pictures", "-1"},
        {"Evaluator", [](JobSpec* s) { s->mutable_evaluate()->clear_evaluator_path(); },
         "spec.evaluate.evaluator_path", "required"},
        {"GridColumns", [](JobSpec* s) { s->mutable_evaluate()->set_grid_columns(101); },
         "spec.evaluate.grid_columns", "101"},
        {"TimingRepeats", [](JobSpec* s) { s->mutable_evaluate()->set_timing_repeats(-2); },
         "spec.evaluate.timing_repeats", "-2"},
        {"OutputDir", [](JobSpec* s) { s->set_output_dir("out"); }, "spec.output_dir",
         "\"out\" is not an absolute path"},
    }),
    [](const auto& info) { return info.param.name; });

TEST(JobSpecTest, NamesEveryBadFieldAtOnce) {
  JobSpec spec;
  spec.mutable_simulate()->set_triples(-1);
  spec.mutable_train()->set_global_batch(-1);
  const std::string all = Join(spec::NormalizeSpec(&spec));
  for (const char* field : {"spec.teacher.path", "spec.prompts.digest", "spec.simulate.triples",
                            "spec.train.steps", "spec.train.global_batch", "spec.output_dir"}) {
    EXPECT_THAT(all, HasSubstr(field));
  }
}

// Sets every path of the job file below `message` and adds its field to `fields`.
void SetPaths(const std::string& prefix, google::protobuf::Message* message,
              std::vector<std::string>* fields) {
  const google::protobuf::Reflection& reflection = *message->GetReflection();
  for (int i = 0; i < message->GetDescriptor()->field_count(); ++i) {
    const google::protobuf::FieldDescriptor* field = message->GetDescriptor()->field(i);
    const std::string name = absl::StrCat(prefix, field->name());
    if (field->is_repeated()) continue;
    if (field->message_type() != nullptr) {
      SetPaths(name + ".", reflection.MutableMessage(message, field), fields);
    } else if (field->options().GetExtension(common::v1::rule).path()) {
      reflection.SetString(message, field, "/elsewhere/" + name);
      fields->push_back(name);
    }
  }
}

// A path that is added to the job file must not get round --model-root and --output-root.
TEST(JobSpecTest, RootsConfineEveryPath) {
  JobSpec spec;
  std::vector<std::string> fields;
  SetPaths("spec.", &spec, &fields);
  EXPECT_GE(fields.size(), 5);
  // What makes the job read the optional ones.
  spec.mutable_train()->mutable_regression()->set_features_weight(1);
  spec.mutable_evaluate()->set_pictures(1);
  const std::string refused = Join(
      common::PathViolations({.model_roots = {"/models"}, .output_roots = {"/outputs"}}, spec));
  for (const std::string& field : fields) {
    if (field == "spec.prompts.path") continue;  // Read by `d2g submit`, and by no service.
    EXPECT_THAT(refused, HasSubstr(field + ": \"/elsewhere/" + field));
  }
}

}  // namespace
}  // namespace d2g::coordinator
