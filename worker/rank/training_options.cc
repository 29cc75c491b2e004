#include "worker/rank/training_options.h"

#include <optional>
#include <utility>

#include "model/files/error.h"
#include "worker/distil/sequential_net.h"

namespace d2g::rank {
namespace {

// Share of gan.learning_rate where the spec names no backbone rate; the coordinator's default.
constexpr double kBackboneRateShare = 0.1;

}  // namespace

distil::TrainStepOptions StepOptions(const coordinator::v1::TrainSpec& spec) {
  distil::TrainStepOptions options;
  options.steps = spec.steps();
  options.learning_rate = spec.learning_rate();
  options.warmup_steps = spec.warmup_steps();
  if (spec.schedule() == "cosine") {
    options.schedule = distil::Schedule::kCosine;
  } else if (!spec.schedule().empty() && spec.schedule() != "constant") {
    model::Fail("train.schedule is \"", spec.schedule(), "\"; must be constant or cosine");
  }
  options.weight_decay = spec.weight_decay();
  options.clip_norm = spec.clip_norm();
  options.ema_decay = spec.ema_decay();
  options.seed = spec.seed();
  options.gan.weight = spec.gan().weight();
  options.gan.start_step = spec.gan().start_step();
  options.gan.discriminator_start_step = spec.gan().discriminator_start_step() > 0
                                             ? spec.gan().discriminator_start_step()
                                             : spec.gan().start_step();
  options.gan.learning_rate = spec.gan().learning_rate();
  // A spec that the coordinator has not made normal has 0.
  options.gan.backbone_learning_rate = spec.gan().backbone_learning_rate() > 0
                                           ? spec.gan().backbone_learning_rate()
                                           : kBackboneRateShare * spec.gan().learning_rate();
  options.gan.decay_steps = spec.gan().decay_steps();
  options.gan.output_scales = spec.gan().output_scales();
  options.gan.mismatch_weight = spec.gan().mismatch_weight();
  return options;
}

distil::OneStepGenerator MakeConversion(const coordinator::v1::TrainSpec& spec,
                                        const model::DdimScheduler& teacher) {
  return distil::OneStepGenerator(teacher,
                                  spec.has_t0() ? std::optional<int64_t>(spec.t0()) : std::nullopt,
                                  spec.parametrization());
}

std::vector<std::shared_ptr<const distil::RegressionTerm>> MakeRegression(
    const coordinator::v1::RegressionSpec& spec, const common::v1::DatasetRecipe& recipe,
    at::Device device) {
  std::vector<std::shared_ptr<const distil::RegressionTerm>> terms;
  if (spec.pseudo_huber_weight() > 0) {
    terms.push_back(distil::MakePseudoHuberTerm(spec.pseudo_huber_weight(), spec.pseudo_huber_c()));
  }
  if (spec.features_weight() > 0) {
    auto network = std::make_shared<distil::SequentialNet>(
        distil::SequentialNet::Load(spec.features_path()).To(device));
    terms.push_back(distil::MakeFeatureTerm(spec.features_weight(), std::move(network),
                                            recipe.latent_channels()));
  }
  return terms;
}

}  // namespace d2g::rank
