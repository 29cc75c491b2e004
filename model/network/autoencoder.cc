#include "model/network/autoencoder.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "model/files/error.h"
#include "model/network/autoencoder_kl.h"
#include "model/network/autoencoder_tiny.h"

namespace d2g::model {

namespace {

// Points of the pictures that run at once: four of 512 by 512. A larger batch is no faster from
// here on.
constexpr int64_t kMaxPicturePoints = int64_t{4} * 512 * 512;

// How many of `batch` samples run at once. With gradients on all do: the graph keeps everything.
int64_t PartSize(int64_t batch, int64_t picture_points) {
  if (at::GradMode::is_enabled()) return batch;
  return std::clamp<int64_t>(kMaxPicturePoints / std::max<int64_t>(picture_points, 1), 1, batch);
}

}  // namespace

LatentDistribution Autoencoder::Encode(const at::Tensor& pictures) const {
  if (!pictures.defined() || pictures.dim() != 4 || pictures.size(1) != in_channels() ||
      pictures.numel() == 0) {
    Fail("vae: pictures are ", pictures.sizes(), ", not [B, ", in_channels(), ", H, W]");
  }
  const at::TensorOptions options = parameters().begin()->second.options();
  const int64_t part = PartSize(pictures.size(0), pictures.size(2) * pictures.size(3));
  std::vector<at::Tensor> means, logvars;
  for (const at::Tensor& some : pictures.split(part)) {
    const LatentDistribution latents = EncodePart(some.to(options), tiling_);
    means.push_back(latents.mean);
    if (latents.logvar.defined()) logvars.push_back(latents.logvar);
  }
  return {at::cat(means), logvars.empty() ? at::Tensor() : at::cat(logvars)};
}

at::Tensor Autoencoder::Decode(const at::Tensor& latents) const {
  if (!latents.defined() || latents.dim() != 4 || latents.size(1) != latent_channels() ||
      latents.numel() == 0) {
    Fail("vae: latents are ", latents.sizes(), ", not [B, ", latent_channels(), ", h, w]");
  }
  const at::TensorOptions options = parameters().begin()->second.options();
  const int64_t part =
      PartSize(latents.size(0), latents.size(2) * latents.size(3) * scale() * scale());
  std::vector<at::Tensor> pictures;
  for (const at::Tensor& some : latents.split(part)) {
    pictures.push_back(DecodePart(some.to(options), tiling_));
  }
  return pictures.size() == 1 ? pictures.front() : at::cat(pictures);
}

void Autoencoder::SetTiling(bool on) {
  if (on) CheckTiling();
  tiling_ = on;
}

std::unique_ptr<Autoencoder> LoadAutoencoder(const std::string& folder,
                                             const LoadOptions& options) {
  switch (ReadVaeKind(folder + "/config.json")) {
    case VaeKind::kKl:
      return std::make_unique<AutoencoderKL>(AutoencoderKL::Load(folder, options));
    case VaeKind::kTiny:
      return std::make_unique<AutoencoderTiny>(AutoencoderTiny::Load(folder, options));
  }
  Fail(folder, ": unknown kind of autoencoder");
}

}  // namespace d2g::model
