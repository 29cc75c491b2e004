#include "worker/distil/discriminator.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>

#include <string>

#include "model/files/error.h"

namespace d2g::distil {
namespace {

using model::TensorMap;

constexpr double kNormEpsilon = 1e-5;

// D reads feature maps of the decoder, not the U-Net's output.
bool IsOutputLayer(const std::string& name) {
  return name.starts_with("conv_norm_out.") || name.starts_with("conv_out.");
}

std::string Numbered(const std::string& prefix, size_t number, const std::string& suffix) {
  return prefix + std::to_string(number) + suffix;
}

const at::Tensor& Find(const TensorMap& parameters, const std::string& name) {
  const auto found = parameters.find(name);
  if (found == parameters.end()) throw model::Error("discriminator lacks the tensor " + name);
  return found->second;
}

size_t CountBlocks(const TensorMap& unet, const std::string& prefix) {
  size_t count = 0;
  while (true) {
    const std::string block = Numbered(prefix, count, ".");
    const auto found = unet.lower_bound(block);
    if (found == unet.end() || !found->first.starts_with(block)) return count;
    ++count;
  }
}

// Channels of the feature map that each encoder level starts with.
std::vector<int64_t> LevelChannels(const TensorMap& unet) {
  std::vector<int64_t> channels{Find(unet, "conv_in.weight").size(0)};
  for (size_t i = 0; unet.contains(Numbered("down_blocks.", i, ".downsamplers.0.conv.weight"));
       ++i) {
    channels.push_back(
        Find(unet, Numbered("down_blocks.", i, ".downsamplers.0.conv.weight")).size(0));
  }
  return channels;
}

// Channels of the decoder blocks' outputs, finest first.
std::vector<int64_t> ScaleChannels(const TensorMap& unet) {
  std::vector<int64_t> channels;
  for (size_t block = CountBlocks(unet, "up_blocks."); block-- > 0;) {
    const std::string prefix = Numbered("up_blocks.", block, ".resnets.");
    const size_t last = CountBlocks(unet, prefix) - 1;
    channels.push_back(Find(unet, Numbered(prefix, last, ".conv2.weight")).size(0));
  }
  return channels;
}

int64_t HeadGroups(int64_t channels) { return channels % 8 == 0 ? 8 : 1; }

}  // namespace

Discriminator::Discriminator(const model::UNet2DConditionModel& teacher_unet, int output_scales,
                             uint64_t seed, at::Device device)
    : unet_(std::make_unique<model::UNet2DConditionModel>(
          teacher_unet.config(), teacher_unet.parameters(),
          at::TensorOptions().dtype(at::kFloat).device(device))) {
  const TensorMap& unet = unet_->parameters();
  const std::vector<int64_t> levels = LevelChannels(unet), scales = ScaleChannels(unet);
  if (output_scales < 0 || output_scales > static_cast<int>(scales.size())) {
    model::Fail("output_scales is ", output_scales, ", must be 0 (all) to ", scales.size(),
                ", the scales of the teacher's decoder");
  }
  levels_ = levels.size();
  output_scales_ = output_scales ? static_cast<size_t>(output_scales) : scales.size();
  const int64_t latent_channels = Find(unet, "conv_in.weight").size(1);
  const at::TensorOptions options = at::kFloat;

  TensorMap own;
  own["noise_in.weight"] = at::zeros({levels[0], latent_channels, 3, 3}, options);
  own["noise_in.bias"] = at::zeros({levels[0]}, options);
  for (size_t level = 1; level < levels_; ++level) {
    own[Numbered("latent_in.", level, ".weight")] =
        at::zeros({levels[level], latent_channels, 3, 3}, options);
    own[Numbered("latent_in.", level, ".bias")] = at::zeros({levels[level]}, options);
  }
  at::Generator generator = at::detail::createCPUGenerator(seed);
  for (size_t scale = 0; scale < output_scales_; ++scale) {
    const int64_t channels = scales[scale];
    const double bound = 1 / std::sqrt(9.0 * static_cast<double>(channels));
    own[Numbered("heads.", scale, ".norm.weight")] = at::ones({channels}, options);
    own[Numbered("heads.", scale, ".norm.bias")] = at::zeros({channels}, options);
    own[Numbered("heads.", scale, ".hidden.weight")] =
        at::empty({channels, channels, 3, 3}, options).uniform_(-bound, bound, generator);
    own[Numbered("heads.", scale, ".hidden.bias")] = at::zeros({channels}, options);
    own[Numbered("heads.", scale, ".logit.weight")] = at::zeros({1, channels, 1, 1}, options);
    own[Numbered("heads.", scale, ".logit.bias")] = at::zeros({1}, options);
  }
  for (const auto& [name, tensor] : own) parameters_[name] = tensor.to(device);
  for (const auto& [name, tensor] : unet) {
    if (!IsOutputLayer(name)) parameters_[kBackbonePrefix + name] = tensor;
  }
}

namespace {

// x [B, C, H, W] -> [B, C, height, width], each the mean of what it covers. CUDA's own backward of
// adaptive pooling is not deterministic, so where the sides divide it is a plain mean.
at::Tensor Shrunk(const at::Tensor& x, int64_t height, int64_t width) {
  if (x.size(2) % height != 0 || x.size(3) % width != 0) {
    return at::adaptive_avg_pool2d(x, {height, width});
  }
  return x.reshape({x.size(0), x.size(1), height, x.size(2) / height, width, x.size(3) / width})
      .mean({3, 5});
}

}  // namespace

Discriminator::Discriminator(const model::UNet2DConditionModel& teacher_unet,
                             const TensorMap& trained, at::Device device)
    : Discriminator(teacher_unet, static_cast<int>(CountBlocks(trained, "heads.")), /*seed=*/0,
                    device) {
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : trained) {
    if (!parameters_.contains(name)) model::Fail("discriminator has the unknown tensor ", name);
  }
  for (auto& [name, tensor] : parameters_) {
    const at::Tensor& value = Find(trained, name);
    if (value.sizes() != tensor.sizes()) {
      model::Fail("discriminator: tensor ", name, " has shape ", value.sizes(), ", expected ",
                  tensor.sizes());
    }
    tensor.copy_(value);
  }
}

std::vector<at::Tensor> Discriminator::Forward(const at::Tensor& z, const at::Tensor& x,
                                               const at::Tensor& text) const {
  std::vector<at::Tensor> features;
  model::UNetTaps taps;
  taps.up_features = &features;
  taps.add_at_level.push_back(at::conv2d(z, parameters_.at("noise_in.weight"),
                                         parameters_.at("noise_in.bias"), /*stride=*/1,
                                         /*padding=*/1));
  int64_t height = x.size(2), width = x.size(3);
  for (size_t level = 1; level < levels_; ++level) {
    height = unet_->config().downsampled(height);
    width = unet_->config().downsampled(width);
    taps.add_at_level.push_back(at::conv2d(Shrunk(x, height, width),
                                           parameters_.at(Numbered("latent_in.", level, ".weight")),
                                           parameters_.at(Numbered("latent_in.", level, ".bias")),
                                           /*stride=*/1,
                                           /*padding=*/1));
  }
  unet_->Forward(x, static_cast<double>(kTimestep), text, &taps);

  std::vector<at::Tensor> logits;
  for (size_t scale = 0; scale < output_scales_; ++scale) {
    at::Tensor h = features.at(features.size() - 1 - scale);
    auto parameter = [&](const char* name) -> const at::Tensor& {
      return parameters_.at(Numbered("heads.", scale, name));
    };
    h = at::silu(at::group_norm(h, HeadGroups(h.size(1)), parameter(".norm.weight"),
                                parameter(".norm.bias"), kNormEpsilon));
    h = at::silu(at::conv2d(h, parameter(".hidden.weight"), parameter(".hidden.bias"), 1, 1));
    logits.push_back(at::conv2d(h, parameter(".logit.weight"), parameter(".logit.bias")));
  }
  return logits;
}

namespace {

// f of each logit, averaged over positions, then over scales.
template <typename F>
at::Tensor AverageOf(const std::vector<at::Tensor>& logits, F f) {
  at::Tensor sum;
  for (const at::Tensor& map : logits) {
    const at::Tensor mean = f(map).flatten(1).mean(1);
    sum = sum.defined() ? sum + mean : mean;
  }
  return sum / static_cast<double>(logits.size());
}

}  // namespace

at::Tensor RealLoss(const std::vector<at::Tensor>& logits) {
  return AverageOf(logits, [](const at::Tensor& map) { return at::softplus(-map); });
}

at::Tensor FakeLoss(const std::vector<at::Tensor>& logits) {
  return AverageOf(logits, [](const at::Tensor& map) { return at::softplus(map); });
}

at::Tensor MeanLogit(const std::vector<at::Tensor>& logits) {
  return AverageOf(logits, [](const at::Tensor& map) { return map; });
}

}  // namespace d2g::distil
