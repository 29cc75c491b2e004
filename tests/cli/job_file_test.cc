#include "cli/job_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>

#include "google/protobuf/util/message_differencer.h"
#include "services/spec/annotated_spec.h"
#include "services/spec/field_rules.h"

namespace d2g::cli {
namespace {

using coordinator::v1::JobSpec;
using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::util::MessageDifferencer;
using ::testing::HasSubstr;

JobSpec MustParse(const std::string& text) {
  auto spec = ParseJobFile(text, "job.yaml");
  EXPECT_TRUE(spec.ok()) << spec.status();
  return spec.ok() ? *spec : JobSpec();
}

std::string ErrorOf(const std::string& text) {
  const auto spec = ParseJobFile(text, "job.yaml");
  EXPECT_EQ(spec.status().code(), absl::StatusCode::kInvalidArgument) << text;
  return std::string(spec.status().message());
}

TEST(JobFile, ReadsYamlAndJsonAlike) {
  const JobSpec yaml = MustParse(R"(
display_name: demo
teacher: {path: ../models/t}
simulate:
  triples: 2048
  seed: 18446744073709551615
  storage_dtype: DTYPE_FP32
  solver: {steps: 50, guidance: 3.0}
train:
  steps: 1e3
  t0: 0
  deterministic: true
)");
  const JobSpec json = MustParse(R"({
    "displayName": "demo", "teacher": {"path": "../models/t"},
    "simulate": {"triples": "2048", "seed": "18446744073709551615", "storageDtype": 3,
                 "solver": {"steps": 50, "guidance": 3}},
    "train": {"steps": 1000, "t0": 0, "deterministic": true, "gan": null}})");
  EXPECT_TRUE(MessageDifferencer::Equals(yaml, json)) << yaml.DebugString() << json.DebugString();
  EXPECT_EQ(yaml.simulate().triples(), 2048);
  EXPECT_EQ(yaml.simulate().seed(), 18446744073709551615U);
  EXPECT_EQ(yaml.simulate().storage_dtype(), common::v1::DTYPE_FP32);
  EXPECT_EQ(yaml.train().steps(), 1000);
  EXPECT_TRUE(yaml.train().has_t0());
  EXPECT_FALSE(json.train().has_gan());
}

TEST(JobFile, NamesFileLinePathAndNearNameOfAnUnknownField) {
  EXPECT_EQ(ErrorOf("train:\n  gan:\n    start_stpe: 3\n"),
            "job.yaml:3: train.gan.start_stpe: unknown field; did you mean 'start_step'?");
}

TEST(JobFile, SaysThatMergeKeysAreNotSupported) {
  const std::string error = ErrorOf("simulate: &a {seed: 1}\ntrain:\n  <<: *a\n  steps: 3\n");
  EXPECT_THAT(error, HasSubstr("job.yaml:3: train.<<: merge keys are not supported"));
}

TEST(JobFile, ListsKnownFieldsWhenNoneIsNear) {
  EXPECT_THAT(ErrorOf("teacher: {zzzzzz: 1}"), HasSubstr("known fields here: path, digest"));
}

TEST(JobFile, RefusesWrongTypes) {
  EXPECT_THAT(ErrorOf("train: {steps: many}"), HasSubstr("train.steps: 'many' is not a whole"));
  EXPECT_THAT(ErrorOf("train: {steps: 1.5}"), HasSubstr("'1.5' is not a whole number"));
  EXPECT_THAT(ErrorOf("train: {global_batch: 3000000000}"), HasSubstr("to 2147483647"));
  EXPECT_THAT(ErrorOf("simulate: {seed: -1}"), HasSubstr("from 0 to 18446744073709551615"));
  EXPECT_THAT(ErrorOf("train: {learning_rate: .nan}"), HasSubstr("not a finite number"));
  EXPECT_THAT(ErrorOf("train: {deterministic: yes}"), HasSubstr("neither true nor false"));
  EXPECT_THAT(ErrorOf("train: 3"), HasSubstr("train: expected fields (a map), found a single"));
  EXPECT_THAT(ErrorOf("output_dir: [a, b]"), HasSubstr("expected a single value, found a list"));
  EXPECT_THAT(ErrorOf("simulate: {storage_dtype: FP16}"), HasSubstr("none of fp16, bf16, fp32"));
}

TEST(JobFile, RefusesWhatIsNoJobFile) {
  EXPECT_THAT(ErrorOf(""), HasSubstr("job.yaml: expected fields (a map), found nothing"));
  EXPECT_THAT(ErrorOf("a: [b"), HasSubstr("job.yaml:1"));
  EXPECT_THAT(ErrorOf("output_dir: a\nname: b\noutputDir: c\n"), HasSubstr("name: unknown field"));
  EXPECT_THAT(ErrorOf("output_dir: a\noutputDir: c\n"), HasSubstr("outputDir: given twice"));
  EXPECT_THAT(ErrorOf(std::string(kMaxJobFileBytes + 1, ' ')), HasSubstr("1048576"));
  EXPECT_THAT(ErrorOf(std::string(100'000, '[')), HasSubstr("job.yaml"));
}

// Every field that JobSpec has can be set from a file: none is of a kind that the reader refuses.
void ExpectSettable(const Descriptor& type, std::set<std::string>* seen) {
  if (!seen->insert(type.full_name()).second) return;
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    EXPECT_FALSE(field.is_map()) << field.full_name();
    EXPECT_NE(field.type(), FieldDescriptor::TYPE_BYTES) << field.full_name();
    if (field.message_type() != nullptr) ExpectSettable(*field.message_type(), seen);
  }
}

TEST(JobFile, CoversEveryFieldOfJobSpec) {
  std::set<std::string> seen;
  ExpectSettable(*JobSpec::descriptor(), &seen);
  EXPECT_GE(seen.size(), 8U);
}

// A job file in a folder of its own, loaded with this $HOME.
absl::StatusOr<JobSpec> Load(const std::string& text) {
  const std::string path = ::testing::TempDir() + "/tilde_job.yaml";
  std::ofstream(path) << text;
  setenv("HOME", "/home/someone", /*overwrite=*/1);
  return LoadJobFile(path);
}

TEST(JobFile, ATildeIsTheHomeFolder) {
  const auto spec = Load(
      "output_dir: ~/runs/x\n"
      "teacher: {path: '~'}\n"
      "prompts: {path: a~b}\n"
      "evaluate: {evaluator_path: ~/e}\n");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->output_dir(), "/home/someone/runs/x");
  EXPECT_EQ(spec->teacher().path(), "/home/someone");
  EXPECT_EQ(spec->evaluate().evaluator_path(), "/home/someone/e");
  EXPECT_THAT(spec->prompts().path(), ::testing::EndsWith("/a~b"));
}

TEST(JobFile, OthersHomesAndVariablesAreRefused) {
  for (const auto& [text, part] :
       {std::pair("output_dir: $HOME/runs", "output_dir: '$HOME/runs' begins with a variable"),
        std::pair("teacher: {path: ~root/t}",
                  "teacher.path: '~root/t' begins with another user's home")}) {
    const auto spec = Load(text);
    EXPECT_EQ(spec.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(spec.status().message()), HasSubstr(part));
    EXPECT_THAT(std::string(spec.status().message()), HasSubstr("tilde_job.yaml"));
  }
}

TEST(JobFile, TheAnnotatedSpecIsAJobFileOfDefaults) {
  JobSpec printed = MustParse(spec::AnnotatedSpec());
  JobSpec empty;
  for (JobSpec* job : {&printed, &empty}) {
    spec::FieldChecker check("spec");
    check.ApplyRules(job);
  }
  EXPECT_TRUE(MessageDifferencer::Equals(printed, empty))
      << printed.DebugString() << empty.DebugString();
}

TEST(JobFile, SetsSingleFields) {
  JobSpec spec;
  EXPECT_TRUE(SetJobField("train.steps=100", &spec).ok());
  EXPECT_TRUE(SetJobField("output_dir=/a=b", &spec).ok());
  EXPECT_EQ(spec.train().steps(), 100);
  EXPECT_EQ(spec.output_dir(), "/a=b");
  EXPECT_THAT(std::string(SetJobField("train.stepz=1", &spec).message()),
              HasSubstr("--set: train.stepz: unknown field; did you mean 'steps'?"));
  EXPECT_FALSE(SetJobField("train=1", &spec).ok());
  EXPECT_FALSE(SetJobField("train.steps.x=1", &spec).ok());
  EXPECT_FALSE(SetJobField("train.steps", &spec).ok());
}

TEST(JobFile, TakesRelativePathsFromTheFilesFolder) {
  const auto folder = std::filesystem::path(::testing::TempDir()) / "job_file_test";
  std::filesystem::create_directories(folder / "jobs");
  std::ofstream(folder / "jobs" / "j.yaml") << "teacher: {path: ../t}\nprompts: {path: /p.txt}\n"
                                               "train: {regression: {features_path: f}}\n"
                                               "evaluate: {evaluator_path: ./e}\noutput_dir: out\n";
  const auto spec = LoadJobFile((folder / "jobs" / "j.yaml").string());
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->teacher().path(), (folder / "t").string());
  EXPECT_EQ(spec->prompts().path(), "/p.txt");
  EXPECT_EQ(spec->train().regression().features_path(), (folder / "jobs/f").string());
  EXPECT_EQ(spec->evaluate().evaluator_path(), (folder / "jobs/e").string());
  EXPECT_EQ(spec->output_dir(), (folder / "jobs/out").string());
  EXPECT_FALSE(LoadJobFile((folder / "none.yaml").string()).ok());
}

}  // namespace
}  // namespace d2g::cli
