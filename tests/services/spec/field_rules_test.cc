// The rules at the fields: that they are sound, and what the walk makes of them. What a job needs
// beyond them is in tests/coordinator/job_spec_test.cc.
#include "services/spec/field_rules.h"

#include <functional>

#include "absl/strings/str_cat.h"
#include "d2g/common/v1/rule.pb.h"
#include "d2g/coordinator/v1/job.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/spec/word_lists.h"

namespace d2g::spec {
namespace {

using common::v1::Rule;
using coordinator::v1::JobSpec;
using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using ::testing::Contains;
using ::testing::ElementsAre;

// Every field of JobSpec that is no message.
void ForEachField(const Descriptor& type,
                  const std::function<void(const FieldDescriptor&, const Rule&)>& f) {
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      ForEachField(*field.message_type(), f);
    } else {
      f(field, field.options().GetExtension(common::v1::rule));
    }
  }
}

bool IsNumber(const FieldDescriptor& field) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
    case FieldDescriptor::CPPTYPE_INT64:
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return true;
    default:
      return false;
  }
}

TEST(JobSpecRulesTest, ANumberWithADefaultTellsZeroFromNothing) {
  ForEachField(*JobSpec::descriptor(), [](const FieldDescriptor& field, const Rule& rule) {
    if (IsNumber(field) && (rule.has_default_() || !rule.default_from().empty())) {
      EXPECT_TRUE(field.has_presence()) << field.full_name() << " must be optional";
    }
    EXPECT_FALSE(rule.has_default_() && !rule.default_from().empty()) << field.full_name();
  });
}

TEST(JobSpecRulesTest, ADefaultIsOneOfTheWords) {
  int lists = 0;
  ForEachField(*JobSpec::descriptor(), [&](const FieldDescriptor& field, const Rule& rule) {
    EXPECT_TRUE(rule.words().empty() || rule.one_of().empty()) << field.full_name();
    if (!rule.words().empty()) ++lists;
    const std::vector<std::string> words = WordsOf(rule);
    if (words.empty() || !rule.has_default_()) return;
    EXPECT_THAT(words, Contains(rule.default_())) << field.full_name();
  });
  EXPECT_EQ(lists, 2);
}

TEST(JobSpecRulesTest, EveryNumberHasBothLimits) {
  int numbers = 0;
  ForEachField(*JobSpec::descriptor(), [&](const FieldDescriptor& field, const Rule& rule) {
    if (!IsNumber(field)) return;
    ++numbers;
    EXPECT_TRUE(rule.has_min() || rule.has_above()) << field.full_name();
    EXPECT_TRUE(rule.has_max() || rule.has_below()) << field.full_name();
    EXPECT_FALSE(rule.has_above() && rule.has_below()) << field.full_name() << ": cannot be said";
    EXPECT_FALSE(rule.has_below() && !rule.has_min()) << field.full_name() << ": cannot be said";
    EXPECT_FALSE(rule.has_above() && !rule.has_max()) << field.full_name() << ": cannot be said";
  });
  EXPECT_GT(numbers, 30);
}

TEST(JobSpecRulesTest, DefaultsKeepTheirOwnRules) {
  JobSpec spec;
  FieldChecker first("spec");
  first.ApplyRules(&spec);
  first.Take();
  FieldChecker again("spec");
  const std::string filled = spec.SerializeAsString();
  again.ApplyRules(&spec);
  EXPECT_EQ(spec.SerializeAsString(), filled);
  for (const auto& violation : again.Take()) {
    EXPECT_THAT(violation.description,
                ::testing::AnyOf("is required", ::testing::StartsWith("0 is not from 1 to ")))
        << violation.field;
  }
}

TEST(JobSpecRulesTest, AZeroThatWasGivenIsNoDefault) {
  JobSpec spec;
  spec.mutable_train()->set_learning_rate(0);
  spec.mutable_train()->set_clip_norm(0);
  spec.mutable_train()->set_keep_checkpoints(0);
  spec.mutable_train()->mutable_regression()->set_pseudo_huber_c(0);
  spec.mutable_simulate()->mutable_solver()->set_steps(0);
  spec.mutable_simulate()->mutable_solver()->set_guidance(0);
  FieldChecker check("spec");
  check.ApplyRules(&spec);
  for (const char* field : {"train.learning_rate", "train.clip_norm", "train.keep_checkpoints",
                            "train.regression.pseudo_huber_c", "simulate.solver.steps"}) {
    EXPECT_FALSE(check.IsGood(field)) << field;
  }
  EXPECT_TRUE(check.IsGood("simulate.solver.guidance"));
  EXPECT_EQ(spec.simulate().solver().guidance(), 0);
}

TEST(JobSpecRulesTest, ShowsLongValuesCut) {
  JobSpec spec;
  spec.set_output_dir(std::string(100'000, 'x'));
  spec.mutable_train()->set_schedule(std::string(100'000, 'x'));
  FieldChecker check("spec");
  check.ApplyRules(&spec);
  for (const auto& violation : check.Take()) EXPECT_LT(violation.description.size(), 200U);
}

TEST(JobSpecRulesTest, FindsThePathsByTheirRules) {
  JobSpec spec;
  spec.mutable_teacher()->set_path("t");
  spec.mutable_train()->mutable_regression()->set_features_path("f");
  spec.set_output_dir("o");
  spec.set_display_name("d");
  std::vector<std::string> seen;
  const auto rooted = [&](const std::string& field, const std::string& path) {
    seen.push_back(field);
    return absl::StrCat("/", path);
  };
  ASSERT_TRUE(TransformPaths(&spec, rooted).ok());
  EXPECT_THAT(seen, ElementsAre("teacher.path", "train.regression.features_path", "output_dir"));
  EXPECT_EQ(spec.teacher().path(), "/t");
  EXPECT_FALSE(spec.has_evaluate()) << "nothing is made by looking";
  const auto refuse = [](const std::string& field, const std::string&) {
    return absl::InvalidArgumentError(field);
  };
  EXPECT_EQ(TransformPaths(&spec, refuse).message(), "teacher.path");
}

}  // namespace
}  // namespace d2g::spec
