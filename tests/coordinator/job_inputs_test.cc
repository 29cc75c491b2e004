#include "coordinator/spec/job_inputs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "coordinator/spec/job_spec.h"
#include "model/config/unet_parameters.h"
#include "services/spec/normal_spec.h"
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
  ASSERT_THAT(spec::NormalizeSpec(&spec), IsEmpty());
  inputs.EditTeacher("scheduler/scheduler_config.json", [](auto& scheduler) {
    scheduler["rescale_betas_zero_snr"] = true;
    scheduler["prediction_type"] = "epsilon";
    scheduler["timestep_spacing"] = "leading";
  });
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

// What is said against the field, or nothing.
std::string ProblemOf(const v1::JobSpec& spec, const std::string& field) {
  for (const auto& violation : CheckJobInputs(spec).violations) {
    if (violation.field == field) return violation.description;
  }
  return "";
}

TEST(JobInputsTest, AnXlTeacherIsRefused) {
  const InputFolders inputs;
  v1::JobSpec spec = SmallSpec();
  inputs.Fill(&spec);
  ASSERT_THAT(spec::NormalizeSpec(&spec), IsEmpty());
  const std::string teacher = inputs.teacher();
  std::filesystem::copy(teacher + "/text_encoder", teacher + "/text_encoder_2",
                        std::filesystem::copy_options::recursive);
  std::filesystem::copy(teacher + "/tokenizer", teacher + "/tokenizer_2",
                        std::filesystem::copy_options::recursive);
  inputs.EditTeacher("text_encoder_2/config.json", [](auto& config) {
    config["architectures"] = {"CLIPTextModelWithProjection"};
    config["projection_dim"] = 6;
  });
  testing::EditTensors(teacher + "/text_encoder_2/model.safetensors", [](auto& tensors) {
    tensors["text_projection.weight"] = {{6, 16}};
  });
  inputs.EditTeacher("unet/config.json", [](auto& config) {
    config["addition_embed_type"] = "text_time";
    config["addition_time_embed_dim"] = 4;
    config["projection_class_embeddings_input_dim"] = 6 + 6 * 4;
    config["cross_attention_dim"] = 32;
  });
  testing::EditTensors(teacher + "/unet/diffusion_pytorch_model.safetensors", [&](auto& tensors) {
    tensors.clear();
    for (const auto& [name, shape] :
         model::UNetParameters(model::UNetConfig::FromFile(teacher + "/unet/config.json"))) {
      tensors[name] = {shape};
    }
  });
  inputs.EditTeacher("model_index.json", [](auto& index) {
    index["_class_name"] = "StableDiffusionXLPipeline";
    index["text_encoder_2"] = {"transformers", "CLIPTextModelWithProjection"};
    index["tokenizer_2"] = {"transformers", "CLIPTokenizer"};
  });
  EXPECT_THAT(ProblemOf(spec, "spec.teacher.path"), HasSubstr("Stable Diffusion XL"));
}

TEST(JobInputsTest, ATeacherThatCannotBeRunIsRefusedBeforeItsWeightsAreRead) {
  const InputFolders inputs;
  v1::JobSpec spec = SmallSpec();
  inputs.Fill(&spec);
  ASSERT_THAT(spec::NormalizeSpec(&spec), IsEmpty());
  inputs.EditTeacher("unet/config.json", [](auto& config) { config["in_channels"] = 9; });
  EXPECT_THAT(ProblemOf(spec, "spec.teacher.path"), HasSubstr("conv_in.weight is [8, 4, 3, 3]"));
  EXPECT_EQ(CheckJobInputs(spec).teacher.digest, "");
}

TEST(JobInputsTest, SolverSettingsThatTheScheduleCannotServeAreRefused) {
  const InputFolders inputs;
  v1::JobSpec spec = SmallSpec();
  inputs.Fill(&spec);
  ASSERT_THAT(spec::NormalizeSpec(&spec), IsEmpty());
  const auto problem = [&] { return ProblemOf(spec, "spec.simulate.solver"); };
  auto& solver = *spec.mutable_simulate()->mutable_solver();
  EXPECT_EQ(problem(), "");
  // The pipeline makes steps_offset 1.
  solver.set_timestep_spacing("leading");
  solver.set_steps(1000);
  EXPECT_THAT(problem(), HasSubstr("timestep 1000 of 1000 steps (leading, steps_offset 1)"));
  solver.set_steps(20);
  EXPECT_EQ(problem(), "");
  solver.set_kind("dpmpp_2m");
  inputs.EditTeacher("scheduler/scheduler_config.json", [](auto& scheduler) {
    scheduler["beta_schedule"] = "squaredcos_cap_v2";
    scheduler["use_karras_sigmas"] = true;
  });
  EXPECT_THAT(problem(), HasSubstr("use_karras_sigmas"));
}

TEST(JobInputsTest, EpsilonWithoutSignalAtTheFirstTimestepIsRefused) {
  const InputFolders inputs;
  v1::JobSpec spec = SmallSpec();
  inputs.Fill(&spec);
  ASSERT_THAT(spec::NormalizeSpec(&spec), IsEmpty());
  inputs.EditTeacher("scheduler/scheduler_config.json", [](auto& scheduler) {
    scheduler["rescale_betas_zero_snr"] = true;
    scheduler["prediction_type"] = "epsilon";
  });
  const auto problem = [&] { return ProblemOf(spec, "spec.simulate.solver"); };
  auto& solver = *spec.mutable_simulate()->mutable_solver();
  for (const char* spacing : {"trailing", "linspace"}) {
    solver.set_timestep_spacing(spacing);
    EXPECT_THAT(problem(), HasSubstr("rescale_betas_zero_snr")) << spacing;
  }
  solver.set_timestep_spacing("leading");
  EXPECT_EQ(problem(), "");
  solver.set_timestep_spacing("trailing");
  for (const char* kind : {"euler", "dpmpp_2m"}) {
    solver.set_kind(kind);
    EXPECT_EQ(problem(), "") << kind;
  }
}

TEST(JobInputsTest, NetworksBesideTheTeacherAreReadAsTheirUsersReadThem) {
  const InputFolders inputs;
  v1::JobSpec spec = SmallSpec();
  inputs.Fill(&spec);
  const std::string features = inputs.File("features");
  testing::WriteTinyNet(features, 4);
  spec.mutable_train()->mutable_regression()->set_features_weight(1);
  spec.mutable_train()->mutable_regression()->set_features_path(features);
  ASSERT_THAT(spec::NormalizeSpec(&spec), IsEmpty());
  EXPECT_THAT(CheckJobInputs(spec).violations, IsEmpty());
  const auto said = [&] { return ProblemOf(spec, "spec.train.regression.features_path"); };

  testing::WriteTinyNet(features, 3);
  EXPECT_THAT(said(), HasSubstr("reads 3 channels, but the teacher's latents have 4"));
  testing::WriteTinyNet(features, 4);
  testing::EditTensors(features + "/model.safetensors",
                       [](auto& tensors) { tensors.erase("layers.4.bias"); });
  EXPECT_THAT(said(), HasSubstr("1 missing (layers.4.bias)"));
  // Any other folder with these two files.
  spec.mutable_train()->mutable_regression()->set_features_path(inputs.teacher() + "/text_encoder");
  EXPECT_THAT(said(), HasSubstr("must be a SequentialNet of version 1"));

  ASSERT_GT(spec.evaluate().pictures(), 0);
  const auto judged = [&] { return ProblemOf(spec, "spec.evaluate.evaluator_path"); };
  testing::EditTensors(inputs.evaluator() + "/reference.safetensors", [](auto& tensors) {
    tensors["cov"].shape = {2, 3};
  });
  EXPECT_THAT(judged(), HasSubstr("mean and cov are not [D] and [D, D]"));
  testing::EditJson(inputs.evaluator() + "/config.json",
                    [](auto& config) { config["taps"].erase("features"); });
  EXPECT_THAT(judged(), HasSubstr("no tap \"features\""));
}

}  // namespace
}  // namespace d2g::coordinator
