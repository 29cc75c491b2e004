// Single values of a job file.
#include "services/spec/field_text.h"

#include "d2g/common/v1/train_spec.pb.h"
#include "d2g/coordinator/v1/job.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace d2g::spec {
namespace {

using common::v1::DType;
using common::v1::TrainSpec;
using coordinator::v1::SimulateSpec;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

template <typename M>
absl::Status Set(M* message, const char* field, const char* text) {
  return SetFieldFromText(text, *M::descriptor()->FindFieldByName(field), message);
}

template <typename M>
std::string ErrorOf(const char* field, const char* text) {
  M message;
  return std::string(Set(&message, field, text).message());
}

TEST(FieldTextTest, TakesWholeNumbersAsPeopleWriteThem) {
  TrainSpec train;
  for (const char* text : {"1000", "1e3", "1000.0"}) {
    ASSERT_TRUE(Set(&train, "steps", text).ok()) << text;
    EXPECT_EQ(train.steps(), 1000) << text;
  }
  ASSERT_TRUE(Set(&train, "seed", "18446744073709551615").ok());
  EXPECT_EQ(train.seed(), 18446744073709551615U);
  ASSERT_TRUE(Set(&train, "warmup_steps", "-3").ok());
  EXPECT_EQ(train.warmup_steps(), -3);
  EXPECT_THAT(ErrorOf<TrainSpec>("steps", "1.5"), HasSubstr("'1.5' is not a whole number"));
  EXPECT_THAT(ErrorOf<TrainSpec>("steps", ""), HasSubstr("'' is not a whole number"));
  EXPECT_THAT(ErrorOf<TrainSpec>("global_batch", "3000000000"), HasSubstr("to 2147483647"));
  EXPECT_THAT(ErrorOf<TrainSpec>("seed", "-1"), HasSubstr("from 0 to 18446744073709551615"));
  EXPECT_THAT(ErrorOf<TrainSpec>("seed", "1e19"), HasSubstr("not a whole number"))
      << "not exact in a double";
}

TEST(FieldTextTest, TakesRealNumbersExactly) {
  TrainSpec train;
  for (const char* text : {"0.1", "5e-4", "-2.5", "1", "1e-300"}) {
    ASSERT_TRUE(Set(&train, "learning_rate", text).ok()) << text;
    EXPECT_EQ(train.learning_rate(), std::stod(text)) << text;
  }
  EXPECT_THAT(ErrorOf<TrainSpec>("learning_rate", "nan"), HasSubstr("'nan' is not a finite"));
  EXPECT_THAT(ErrorOf<TrainSpec>("learning_rate", "fast"), HasSubstr("'fast' is not a finite"));
}

TEST(FieldTextTest, TakesEnumsByShortNameFullNameAndNumber) {
  SimulateSpec simulate;
  for (const char* text : {"bf16", "DTYPE_BF16", "2"}) {
    simulate.clear_storage_dtype();
    ASSERT_TRUE(Set(&simulate, "storage_dtype", text).ok()) << text;
    EXPECT_EQ(simulate.storage_dtype(), DType::DTYPE_BF16) << text;
  }
  EXPECT_EQ(ErrorOf<SimulateSpec>("storage_dtype", "half"), "'half' is none of fp16, bf16, fp32");
  EXPECT_THAT(ErrorOf<SimulateSpec>("storage_dtype", "7"), HasSubstr("none of"));
  EXPECT_THAT(ErrorOf<SimulateSpec>("storage_dtype", "unspecified"), HasSubstr("none of"));
  EXPECT_THAT(ShortNames(*common::v1::DType_descriptor()), ElementsAre("fp16", "bf16", "fp32"));
}

TEST(FieldTextTest, TakesTextAndTruthValues) {
  TrainSpec train;
  ASSERT_TRUE(Set(&train, "parametrization", "a \"quoted\" word").ok());
  EXPECT_EQ(train.parametrization(), "a \"quoted\" word");
  ASSERT_TRUE(Set(&train, "deterministic", "true").ok());
  EXPECT_TRUE(train.deterministic());
  EXPECT_THAT(ErrorOf<TrainSpec>("deterministic", "yes"), HasSubstr("neither true nor false"));
  EXPECT_FALSE(Set(&train, "gan", "1").ok()) << "a message is no single value";
}

}  // namespace
}  // namespace d2g::spec
