#include "coordinator/job_inputs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "coordinator/job_spec.h"
#include "tests/coordinator/harness.h"
#include "tests/coordinator/input_folders.h"

namespace d2g::coordinator {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

TEST(JobInputsTest, WhatTheTeachersNetworkCannotDoIsNamed) {
  const InputFolders inputs;
  v1::JobSpec spec = SmallSpec();
  inputs.Fill(&spec);
  ASSERT_THAT(NormalizeSpec(&spec), IsEmpty());
  WriteTestFile(inputs.teacher() + "/unet/config.json",
                R"({"in_channels": 4, "sample_size": 8, "up_block_types": ["A", "B"]})");
  WriteTestFile(inputs.teacher() + "/scheduler/scheduler_config.json",
                R"({"rescale_betas_zero_snr": true})");
  spec.mutable_train()->mutable_gan()->set_output_scales(3);
  const auto violations = CheckJobInputs(spec).violations;
  ASSERT_THAT(violations, SizeIs(2));
  EXPECT_EQ(violations[0].field, "spec.train.gan.output_scales");
  EXPECT_THAT(violations[0].description, HasSubstr("3 is not from 0 to 2"));
  EXPECT_EQ(violations[1].field, "spec.train.parametrization");
  EXPECT_THAT(violations[1].description, HasSubstr("zero terminal SNR"));

  spec.mutable_train()->mutable_gan()->set_output_scales(2);
  spec.mutable_train()->set_t0(998);
  EXPECT_THAT(CheckJobInputs(spec).violations, IsEmpty());
  spec.mutable_train()->clear_t0();
  spec.mutable_train()->set_parametrization("sample");
  EXPECT_THAT(CheckJobInputs(spec).violations, IsEmpty());
}

TEST(JobInputsTest, AnXlTeacherIsRefused) {
  const InputFolders inputs;
  v1::JobSpec spec = SmallSpec();
  inputs.Fill(&spec);
  ASSERT_THAT(NormalizeSpec(&spec), IsEmpty());
  WriteTestFile(inputs.teacher() + "/unet/config.json",
                R"({"in_channels": 4, "sample_size": 8, "addition_embed_type": "text_time"})");
  const auto violations = CheckJobInputs(spec).violations;
  ASSERT_THAT(violations, SizeIs(1));
  EXPECT_EQ(violations[0].field, "spec.teacher.path");
  EXPECT_THAT(violations[0].description, HasSubstr("Stable Diffusion XL"));
}

}  // namespace
}  // namespace d2g::coordinator
