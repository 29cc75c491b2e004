// How fast the model library is on one CPU thread: the demo teacher's network, what a simulation
// worker does with it, and Stable Diffusion 1.5 at full width with random weights.
// bench/model_bench.py times diffusers on the same networks.
#include <benchmark/benchmark.h>

#include "worker/model/autoencoder_kl.h"
#include "worker/model/clip_text_model.h"
#include "worker/model/ddim_scheduler.h"
#include "worker/model/random_weights.h"
#include "worker/model/torch_process.h"
#include "worker/model/unet_2d_condition.h"

namespace d2g::model {
namespace {

constexpr const char* kDemoUnet = R"({"sample_size":8,"block_out_channels":[48,96],
    "layers_per_block":1,"cross_attention_dim":96,"attention_head_dim":4,"norm_num_groups":8,
    "down_block_types":["DownBlock2D","CrossAttnDownBlock2D"],
    "up_block_types":["CrossAttnUpBlock2D","UpBlock2D"]})";
constexpr const char* kSd15Unet = R"({"sample_size":64,"cross_attention_dim":768,
    "attention_head_dim":8})";

UNet2DConditionModel MakeUNet(const char* json) {
  const UNetConfig config = UNetConfig::FromJson(json, "bench");
  UNet2DConditionModel model(config,
                             RandomParameters(1, UNet2DConditionModel::ParameterShapes(config)));
  model.PrepareForInference();
  return model;
}

const UNet2DConditionModel& DemoUNet() {
  static const UNet2DConditionModel model = MakeUNet(kDemoUnet);
  return model;
}

// One evaluation, text keys and values made before.
void DemoUNetForward(benchmark::State& state) {
  const at::NoGradGuard no_grad;
  const int64_t batch = state.range(0);
  const at::Tensor sample = at::randn({batch, 4, 8, 8});
  const PreparedConditions text = DemoUNet().PrepareConditions({at::randn({batch, 16, 96})});
  for (auto _ : state) benchmark::DoNotOptimize(DemoUNet().Forward(sample, 500, text));
  state.SetItemsProcessed(state.iterations() * batch);
}
BENCHMARK(DemoUNetForward)
    ->Arg(1)
    ->Arg(16)
    ->Arg(32)
    ->Arg(64)
    ->Arg(128)
    ->Unit(benchmark::kMillisecond);

// Trajectories: 50 steps with guidance, as Solve runs them. items/s is triples a second.
void DemoTrajectories(benchmark::State& state) {
  const at::NoGradGuard no_grad;
  const int64_t batch = state.range(0);
  SchedulerConfig config;
  config.beta_schedule = "scaled_linear";
  config.timestep_spacing = "trailing";
  config.clip_sample = false;
  config.prediction_type = Parametrization::kVPrediction;
  const DdimScheduler scheduler(config);
  const at::Tensor noise = at::randn({batch, 4, 8, 8}), hidden = at::randn({2 * batch, 16, 96});
  for (auto _ : state) {
    const PreparedConditions text = DemoUNet().PrepareConditions({hidden});
    at::Tensor z = noise;
    for (const int64_t timestep : scheduler.Timesteps(50)) {
      const at::Tensor both = DemoUNet().Forward(z, static_cast<double>(timestep), text);
      const at::Tensor u = both.narrow(0, 0, batch), c = both.narrow(0, batch, batch);
      z = scheduler.Step(u + 3.0 * (c - u), timestep, z, 50);
    }
    benchmark::DoNotOptimize(z);
  }
  state.SetItemsProcessed(state.iterations() * batch);
}
BENCHMARK(DemoTrajectories)->Arg(8)->Arg(16)->Arg(32)->Arg(64)->Unit(benchmark::kMillisecond);

// What a training step of the generator costs: forward and backward.
void DemoUNetTraining(benchmark::State& state) {
  const int64_t batch = state.range(0);
  UNet2DConditionModel model = MakeUNet(kDemoUnet);
  for (const auto& [name, parameter] : model.parameters()) parameter.requires_grad_(true);
  const at::Tensor sample = at::randn({batch, 4, 8, 8}), hidden = at::randn({batch, 16, 96});
  for (auto _ : state) model.Forward(sample, 999, hidden).square().mean().backward();
  state.SetItemsProcessed(state.iterations() * batch);
}
BENCHMARK(DemoUNetTraining)->Arg(32)->Unit(benchmark::kMillisecond);

void DemoDecode(benchmark::State& state) {
  const at::NoGradGuard no_grad;
  AutoencoderConfig config;
  config.in_channels = config.out_channels = 1;
  config.block_out_channels = {16, 32, 64};
  config.norm_num_groups = 8;
  const AutoencoderKL vae(config, RandomParameters(3, AutoencoderKL::ParameterShapes(config)));
  const at::Tensor latents = at::randn({state.range(0), 4, 8, 8});
  for (auto _ : state) benchmark::DoNotOptimize(vae.Decode(latents));
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(DemoDecode)->Arg(1)->Arg(32)->Unit(benchmark::kMillisecond);

// Full width: 860 million parameters, 3.4 GB.
void Sd15UNetForward(benchmark::State& state) {
  const at::NoGradGuard no_grad;
  const UNet2DConditionModel model = MakeUNet(kSd15Unet);
  const at::Tensor sample = at::randn({state.range(0), 4, 64, 64});
  const PreparedConditions text = model.PrepareConditions({at::randn({state.range(0), 77, 768})});
  for (auto _ : state) benchmark::DoNotOptimize(model.Forward(sample, 500, text));
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(Sd15UNetForward)->Arg(1)->Arg(2)->Iterations(1)->Unit(benchmark::kMillisecond);

void Sd15TextEncoder(benchmark::State& state) {
  const at::NoGradGuard no_grad;
  ClipTextConfig config;
  config.hidden_size = 768;
  config.intermediate_size = 3072;
  config.num_attention_heads = 12;
  const ClipTextModel model(config, RandomParameters(2, ClipTextModel::ParameterShapes(config)));
  const at::Tensor ids = at::arange(77).unsqueeze(0);
  for (auto _ : state) benchmark::DoNotOptimize(model.Forward(ids));
}
BENCHMARK(Sd15TextEncoder)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace d2g::model

int main(int argc, char** argv) {
  d2g::model::SetUpTorchProcess(1);
  at::manual_seed(0);
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
