#include "worker/distil/generator.h"

#include "model/files/error.h"

namespace d2g::distil {

using model::Parametrization;

OneStepGenerator::OneStepGenerator(const model::DdimScheduler& teacher, std::optional<int64_t> t0,
                                   const std::string& parametrization)
    : output_(parametrization == "sample" ? Parametrization::kSample
                                          : teacher.config().prediction_type) {
  const int64_t count = static_cast<int64_t>(teacher.alphas_cumprod().size());
  t0_ = t0.value_or(count - 1);
  if (t0_ < 0 || t0_ >= count) model::Fail("t0 is ", t0_, ", must be in 0 to ", count - 1);
  if (!parametrization.empty() && parametrization != "x0" && parametrization != "sample") {
    model::Fail("parametrization is \"", parametrization, "\", must be x0 or sample");
  }
  alpha_cumprod_ = teacher.alphas_cumprod()[static_cast<size_t>(t0_)];
  if (output_ == Parametrization::kEpsilon && alpha_cumprod_ <= 0) {
    model::Fail("a student that predicts epsilon has no x at t0 ", t0_,
                ", where alpha is 0 (zero terminal SNR); choose parametrization sample");
  }
}

OneStepGenerator::OneStepGenerator(const model::DdimScheduler& teacher,
                                   const common::v1::TrainSpec& spec)
    : OneStepGenerator(teacher, spec.has_t0() ? std::optional<int64_t>(spec.t0()) : std::nullopt,
                       spec.parametrization()) {}

at::Tensor OneStepGenerator::Generate(const model::UNet2DConditionModel& unet, const at::Tensor& z,
                                      const at::Tensor& text) const {
  return model::PredictOriginal(z, unet.Forward(z, static_cast<double>(t0_), text), alpha_cumprod_,
                                output_);
}

}  // namespace d2g::distil
