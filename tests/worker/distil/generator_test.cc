#include <ATen/core/grad_mode.h>

#include "worker/distil/generator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/files/error.h"
#include "tests/worker/distil/small_unet.h"

namespace d2g::distil {
namespace {

using model::DdimScheduler;
using model::Parametrization;
using model::SchedulerConfig;
using testing::HasSubstr;
using testing::ThrowsMessage;

DdimScheduler Scheduler(Parametrization parametrization, bool zero_snr = false) {
  SchedulerConfig config;
  config.prediction_type = parametrization;
  config.rescale_betas_zero_snr = zero_snr;
  return DdimScheduler(config);
}

TEST(OneStepGenerator, ConvertsTheNetworksOutputAtT0) {
  const model::UNet2DConditionModel unet = SmallUNet();
  const at::NoGradGuard no_grad;
  const at::Tensor z = Normal({2, 4, 8, 8}, 1), text = Normal({2, 3, 12}, 2);
  const DdimScheduler scheduler = Scheduler(Parametrization::kVPrediction);
  const at::Tensor out = unet.Forward(z, 399.0, text);
  const double alpha2 = scheduler.alphas_cumprod()[399];
  const OneStepGenerator velocity(scheduler, 399, "x0");
  EXPECT_TRUE(at::allclose(velocity.Generate(unet, z, text),
                           std::sqrt(alpha2) * z - std::sqrt(1 - alpha2) * out, 1e-5, 1e-6));
  EXPECT_EQ(velocity.output(), Parametrization::kVPrediction);
  const OneStepGenerator sample(scheduler, 399, "sample");
  EXPECT_TRUE(at::allclose(sample.Generate(unet, z, text), out));
  EXPECT_EQ(sample.output(), Parametrization::kSample);
}

TEST(OneStepGenerator, TakesTheLastTimestepByDefault) {
  EXPECT_EQ(OneStepGenerator(Scheduler(Parametrization::kEpsilon), std::nullopt, "").t0(), 999);
}

TEST(OneStepGenerator, NamesWhatItRefuses) {
  auto make = [](Parametrization parametrization, bool zero_snr, std::optional<int64_t> t0,
                 const std::string& name) {
    return [=] { OneStepGenerator(Scheduler(parametrization, zero_snr), t0, name); };
  };
  EXPECT_THAT(make(Parametrization::kEpsilon, false, 1000, "x0"),
              ThrowsMessage<model::Error>(HasSubstr("t0 is 1000, must be in 0 to 999")));
  EXPECT_THAT(make(Parametrization::kEpsilon, false, 999, "x1"),
              ThrowsMessage<model::Error>(HasSubstr("\"x1\", must be x0 or sample")));
  EXPECT_THAT(make(Parametrization::kEpsilon, true, 999, "x0"),
              ThrowsMessage<model::Error>(HasSubstr("alpha is 0")));
  EXPECT_NO_THROW(make(Parametrization::kVPrediction, true, 999, "x0")());
  EXPECT_NO_THROW(make(Parametrization::kEpsilon, true, 999, "sample")());
}

}  // namespace
}  // namespace d2g::distil
