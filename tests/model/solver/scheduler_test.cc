// Scheduler files that are refused, what is read from those that are not, and DDIM by itself.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "model/solver/ddim_scheduler.h"
#include "model/solver/noise_schedule.h"
#include "model/solver/solver.h"
#include "tests/model/temp_folder.h"

namespace d2g::model {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr SolverKind kAll[] = {SolverKind::kDdim, SolverKind::kEuler, SolverKind::kDpmpp2m,
                               SolverKind::kHeun};

SchedulerConfig Read(const std::string& json, SolverKind kind = SolverKind::kDdim) {
  return SchedulerConfig::FromJson(json, "scheduler_config.json", kind);
}

TEST(SchedulerConfigTest, BadOptionsAreNamed) {
  const struct {
    const char* json;
    const char* option;
    std::vector<SolverKind> kinds;  // that read it; empty: all
  } kCases[] = {
      {R"([])", "not a JSON object", {}},
      {R"({"num_train_timesteps":0})", "num_train_timesteps", {}},
      {R"({"num_train_timesteps":1e7})", "num_train_timesteps", {}},
      {R"({"beta_start":-0.1})", "beta_start", {}},
      {R"({"beta_end":1.5})", "beta_end", {}},
      {R"({"beta_schedule":"sigmoid"})", "beta_schedule", {}},
      {R"({"trained_betas":[0.1],"num_train_timesteps":2})", "trained_betas", {}},
      {R"({"trained_betas":[2],"num_train_timesteps":1})", "trained_betas", {}},
      {R"({"trained_betas":0.1})", "trained_betas", {}},
      {R"({"prediction_type":"flow_prediction"})", "prediction_type", {}},
      {R"({"timestep_spacing":"random"})", "timestep_spacing", {}},
      {R"({"steps_offset":-1})", "steps_offset", {}},
      {R"({"steps_offset":1e9})", "steps_offset", {}},
      {R"({"_class_name":"FlowMatchEulerDiscreteScheduler"})", "_class_name", {}},
      {R"({"_class_name":"EDMEulerScheduler"})", "_class_name", {}},
      {R"({"beta_schedule":"exp"})",
       "beta_schedule",
       {SolverKind::kDdim, SolverKind::kEuler, SolverKind::kDpmpp2m}},
      {R"({"clip_sample":"yes"})", "clip_sample", {SolverKind::kDdim, SolverKind::kHeun}},
      {R"({"clip_sample":true,"clip_sample_range":-1})",
       "clip_sample_range",
       {SolverKind::kDdim, SolverKind::kHeun}},
      {R"({"thresholding":true,"dynamic_thresholding_ratio":1.5})",
       "dynamic_thresholding_ratio",
       {SolverKind::kDdim, SolverKind::kDpmpp2m}},
      {R"({"thresholding":true,"sample_max_value":0})",
       "sample_max_value",
       {SolverKind::kDdim, SolverKind::kDpmpp2m}},
      {R"({"set_alpha_to_one":1})", "set_alpha_to_one", {SolverKind::kDdim}},
      {R"({"use_beta_sigmas":true})",
       "use_beta_sigmas",
       {SolverKind::kEuler, SolverKind::kDpmpp2m, SolverKind::kHeun}},
      {R"({"use_karras_sigmas":true,"use_exponential_sigmas":true})",
       "use_exponential_sigmas",
       {SolverKind::kEuler, SolverKind::kDpmpp2m, SolverKind::kHeun}},
      {R"({"use_karras_sigmas":true,"num_train_timesteps":1})",
       "num_train_timesteps",
       {SolverKind::kEuler, SolverKind::kDpmpp2m, SolverKind::kHeun}},
      {R"({"sigma_min":0})",
       "sigma_min",
       {SolverKind::kEuler, SolverKind::kDpmpp2m, SolverKind::kHeun}},
      {R"({"sigma_max":-3})",
       "sigma_max",
       {SolverKind::kEuler, SolverKind::kDpmpp2m, SolverKind::kHeun}},
      {R"({"final_sigmas_type":"small"})",
       "final_sigmas_type",
       {SolverKind::kEuler, SolverKind::kDpmpp2m}},
      {R"({"interpolation_type":"cubic"})", "interpolation_type", {SolverKind::kEuler}},
      {R"({"timestep_type":"odd"})", "timestep_type", {SolverKind::kEuler}},
      {R"({"use_flow_sigmas":true})", "use_flow_sigmas", {SolverKind::kDpmpp2m}},
      {R"({"solver_order":0})", "solver_order", {SolverKind::kDpmpp2m}},
      {R"({"solver_order":4})", "solver_order", {SolverKind::kDpmpp2m}},
      {R"({"algorithm_type":"sde-dpmsolver++"})", "algorithm_type", {SolverKind::kDpmpp2m}},
      {R"({"algorithm_type":"dpmsolver"})", "final_sigmas_type", {SolverKind::kDpmpp2m}},
      {R"({"solver_type":"bh3"})", "solver_type", {SolverKind::kDpmpp2m}},
      {R"({"variance_type":"learned_range"})", "variance_type", {SolverKind::kDpmpp2m}},
      {R"({"lower_order_final":"yes"})", "lower_order_final", {SolverKind::kDpmpp2m}},
  };
  for (const auto& item : kCases) {
    for (const SolverKind kind : kAll) {
      SCOPED_TRACE(SolverKindName(kind) + " " + item.json);
      const bool reads = item.kinds.empty() ||
                         std::find(item.kinds.begin(), item.kinds.end(), kind) != item.kinds.end();
      const std::string message = MessageOf([&] { Read(item.json, kind); });
      if (reads) {
        EXPECT_THAT(message, AllOf(HasSubstr("scheduler_config.json"), HasSubstr(item.option)));
      } else {
        EXPECT_EQ(message, "");
      }
    }
  }
}

TEST(SchedulerConfigTest, MissingOptionsAreThoseOfTheSolversClass) {
  const std::string file = R"({"_class_name":"PNDMScheduler","skip_prk_steps":true})";
  EXPECT_EQ(Read(file, SolverKind::kDdim).timestep_spacing, "leading");
  EXPECT_TRUE(Read(file, SolverKind::kDdim).clip_sample);
  EXPECT_EQ(Read(file, SolverKind::kEuler).timestep_spacing, "linspace");
  EXPECT_EQ(Read(file, SolverKind::kHeun).beta_end, 0.012);
  EXPECT_FALSE(Read(file, SolverKind::kHeun).clip_sample);
}

TEST(SchedulerConfigTest, NullFlagsAreOffAndFilledInDefaultsDoNotCount) {
  EXPECT_FALSE(Read(R"({"clip_sample":null})").clip_sample);
  EXPECT_FALSE(Read(R"({"set_alpha_to_one":null})").set_alpha_to_one);
  EXPECT_TRUE(Read(R"({"clip_sample":false,"_use_default_values":["clip_sample"]})").clip_sample);
  EXPECT_EQ(Read(R"({"timestep_spacing":"leading","_use_default_values":["timestep_spacing"]})",
                 SolverKind::kEuler)
                .timestep_spacing,
            "linspace");
  const double clipped =
      Read(R"({"lambda_min_clipped":-Infinity})", SolverKind::kDpmpp2m).lambda_min_clipped;
  EXPECT_TRUE(std::isinf(clipped) && clipped < 0);
}

TEST(SchedulerConfigTest, SolversAndSpacingsHaveNames) {
  for (const SolverKind kind : kAll) EXPECT_EQ(ParseSolverKind(SolverKindName(kind)), kind);
  EXPECT_THAT(MessageOf([] { ParseSolverKind("plms"); }),
              AllOf(HasSubstr("plms"), HasSubstr("ddim, euler, dpmpp_2m, heun")));
  EXPECT_EQ(SchedulerConfig{}.WithSpacing("trailing").timestep_spacing, "trailing");
  EXPECT_THAT(MessageOf([] { SchedulerConfig{}.WithSpacing("sideways"); }),
              AllOf(HasSubstr("sideways"), HasSubstr("linspace")));
}

TEST(SolverTest, StepsThatTheScheduleDoesNotHaveAreRefused) {
  const auto make = [](SchedulerConfig config, int64_t steps) {
    return MessageOf([&] { MakeSolver(config, steps); });
  };
  for (const SolverKind kind : kAll) {
    const SchedulerConfig config = SchedulerConfig::Defaults(kind);
    EXPECT_THAT(make(config, 0), HasSubstr("steps is 0")) << SolverKindName(kind);
    EXPECT_EQ(make(config, 1), "") << SolverKindName(kind);
  }
  for (const SolverKind kind : {SolverKind::kEuler, SolverKind::kDpmpp2m, SolverKind::kHeun}) {
    const SchedulerConfig config = SchedulerConfig::Defaults(kind).WithSpacing("leading");
    EXPECT_THAT(make(config, 2000), AllOf(HasSubstr("2000 steps"), HasSubstr("1000")));
  }
  SchedulerConfig clipped = SchedulerConfig::Defaults(SolverKind::kDpmpp2m);
  clipped.lambda_min_clipped = 100;
  EXPECT_THAT(make(clipped, 10), HasSubstr("lambda_min_clipped = 100"));
  SchedulerConfig silent = SchedulerConfig::Defaults(SolverKind::kEuler);
  silent.num_train_timesteps = 3;
  silent.trained_betas = {0.1, 0.1, 1.0};
  EXPECT_THAT(make(silent, 3), AllOf(HasSubstr("timestep 2"), HasSubstr("inf")));
  EXPECT_THAT(MessageOf([] { DdimScheduler(SchedulerConfig::Defaults(SolverKind::kHeun)); }),
              HasSubstr("heun"));
}

TEST(SolverTest, HeunEvaluatesTwiceButForTheLastStep) {
  const auto solver = MakeSolver(SchedulerConfig::Defaults(SolverKind::kHeun), 4);
  const std::vector<double>& timesteps = solver->timesteps();
  ASSERT_EQ(timesteps.size(), 7);
  for (size_t i = 1; i < 7; i += 2) EXPECT_EQ(timesteps[i], timesteps[i + 1]);
  EXPECT_THAT(MessageOf([&] {
                solver->Step(at::ones({1, 1}), 1, at::ones({1, 1}));
              }),
              HasSubstr("out of order"));
}

// Rounding makes the reference visit timestep -1 after the 61 that were asked for.
TEST(SolverTest, RoundingDoesNotAddAStepToDdim) {
  const DdimScheduler scheduler(SchedulerConfig{}.WithSpacing("trailing"));
  const std::vector<int64_t> timesteps = scheduler.Timesteps(61);
  EXPECT_EQ(timesteps.size(), 61);
  EXPECT_EQ(timesteps.back(), 15);
  SchedulerConfig euler = SchedulerConfig::Defaults(SolverKind::kEuler).WithSpacing("trailing");
  EXPECT_EQ(MakeSolver(euler, 61)->timesteps().back(), -1);
}

TEST(SolverTest, ARuleForSigmasThatDoesNotGoWithTheBetasIsNamed) {
  SchedulerConfig config = SchedulerConfig::Defaults(SolverKind::kDpmpp2m);
  config.beta_schedule = "squaredcos_cap_v2";
  config.sigma_rule = SigmaRule::kKarras;
  EXPECT_THAT(MessageOf([&] { MakeSolver(config, 4); }),
              AllOf(HasSubstr("use_karras_sigmas"), HasSubstr("squaredcos_cap_v2")));
  config.sigma_rule = SigmaRule::kLu;
  EXPECT_EQ(MessageOf([&] { MakeSolver(config, 4); }), "");
}

// Signal is 0 at the last timestep, and there epsilon says nothing about x.
TEST(SolverTest, DdimDoesNotStartWhereEpsilonGivesNoX) {
  SchedulerConfig config;
  config.rescale_betas_zero_snr = true;
  config.clip_sample = false;
  const auto made = [&](const char* spacing) {
    return MessageOf([&] { MakeSolver(config.WithSpacing(spacing), 10); });
  };
  for (const char* spacing : {"trailing", "linspace"}) {
    EXPECT_THAT(made(spacing), AllOf(HasSubstr("rescale_betas_zero_snr"), HasSubstr(spacing)));
  }
  EXPECT_EQ(made("leading"), "");
  config.clip_sample = true;
  EXPECT_EQ(made("trailing"), "");
  config.clip_sample = false;
  config.prediction_type = Parametrization::kVPrediction;
  EXPECT_EQ(made("trailing"), "");
}

// The tables are computed without LibTorch; datasets that were made with its are the same.
TEST(NoiseScheduleTest, TheTablesAreLibTorchsToTheBit) {
  const auto tensor = [](const std::vector<float>& values) {
    return at::tensor(at::ArrayRef<float>(values), at::kFloat);
  };
  for (const int64_t count : {1, 2, 7, 77, 1000, 1001, 4000}) {
    for (const auto& [first, last] : {std::pair(0.00085, 0.012), std::pair(0.0001, 0.02)}) {
      SchedulerConfig config;
      config.num_train_timesteps = count;
      config.beta_start = first;
      config.beta_end = last;
      const at::Tensor linear = at::linspace(first, last, count, at::kFloat);
      EXPECT_TRUE(at::equal(tensor(NoiseSchedule(config).betas()), linear)) << count;
      EXPECT_TRUE(
          at::equal(tensor(NoiseSchedule(config).alphas_cumprod()), at::cumprod(1.0 - linear, 0)))
          << count;
      config.beta_schedule = "scaled_linear";
      const at::Tensor scaled =
          at::linspace(std::sqrt(first), std::sqrt(last), count, at::kFloat).square();
      EXPECT_TRUE(at::equal(tensor(NoiseSchedule(config).betas()), scaled)) << count;
    }
  }
}

TEST(DdimSchedulerTest, StepsOutsideTheScheduleAreRefused) {
  SchedulerConfig config;
  const DdimScheduler scheduler(config);
  EXPECT_THAT(MessageOf([&] { scheduler.Timesteps(0); }), HasSubstr("steps is 0"));
  EXPECT_THAT(MessageOf([&] { scheduler.Timesteps(1001); }), HasSubstr("1000"));
  EXPECT_THAT(MessageOf([&] { scheduler.Step(at::ones({1}), 1000, at::ones({1}), 10); }),
              HasSubstr("1000"));
  config.steps_offset = 1;
  EXPECT_THAT(MessageOf([&] { DdimScheduler(config).Timesteps(1000); }),
              HasSubstr("timestep 1000"));
}

TEST(DdimSchedulerTest, PredictX0InvertsNoising) {
  const DdimScheduler scheduler(SchedulerConfig{});
  const at::Tensor x = at::randn({2, 4}), noise = at::randn({2, 4});
  const float bar = scheduler.alphas_cumprod()[500];
  const at::Tensor z = std::sqrt(bar) * x + std::sqrt(1 - bar) * noise;
  const at::Tensor v = std::sqrt(bar) * noise - std::sqrt(1 - bar) * x;
  EXPECT_TRUE(
      at::allclose(scheduler.PredictX0(z, noise, 500, Parametrization::kEpsilon), x, 1e-4, 1e-4));
  EXPECT_TRUE(
      at::allclose(scheduler.PredictX0(z, v, 500, Parametrization::kVPrediction), x, 1e-4, 1e-4));
  EXPECT_TRUE(at::equal(scheduler.PredictX0(z, x, 500, Parametrization::kSample), x));
  EXPECT_EQ(scheduler.PredictX0(z.to(at::kHalf), x.to(at::kHalf), 500).scalar_type(), at::kFloat);
}

}  // namespace
}  // namespace d2g::model
