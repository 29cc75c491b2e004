// A whole text-to-image latent diffusion model from a diffusers folder, as StableDiffusionPipeline
// runs it: prompts to embeddings, noise to latents, latents to pictures.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "worker/model/autoencoder.h"
#include "worker/model/clip_text_model.h"
#include "worker/model/clip_tokenizer.h"
#include "worker/model/ddim_scheduler.h"
#include "worker/model/unet_2d_condition.h"

namespace d2g::model {

struct SolverOptions {
  int64_t steps = 50;
  // u + g (c - u); at most 1 means one conditional evaluation and no unconditional one.
  double guidance = 3.0;
  // "trailing", "leading" or "linspace"; nothing takes the scheduler file's.
  std::optional<std::string> spacing;
};

// Called after each step with the number of steps done. It may throw to stop the run: the exception
// passes through Solve.
using StepCallback = std::function<void(int64_t done, int64_t steps)>;

struct ModelOptions {
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;  // of the three networks; results are fp32
  bool load_vae = true;               // without it DecodeToImages throws
  std::string variant;                // of the weight files, see LoadOptions
  // Called after each network of a Load. It may throw to stop: the exception passes through.
  std::function<void()> progress = nullptr;
};

// Const methods may be called from several threads at once; each runs without gradients unless it
// says otherwise.
class TextToImageModel {
 public:
  // Reads model_index.json and the components unet, text_encoder, tokenizer, scheduler and vae.
  // As StableDiffusionPipeline's constructor does, steps_offset becomes 1 and clip_sample false.
  // Throws Error naming the file, option or tensor that is missing or wrong.
  static TextToImageModel Load(const std::string& folder, const ModelOptions& options = {});

  // Token ids, then text encoder: [prompts.size(), model_max_length, hidden]. Equal prompts are
  // encoded once. "" is the unconditional prompt.
  at::Tensor EncodePrompts(const std::vector<std::string>& prompts) const;

  // Integrates from unit-normal noise [B, C, h, w] to latents [B, C, h, w] (fp32, scaled as the
  // U-Net sees them) with DDIM. cond is [B, L, D]; uncond [1, L, D] or [B, L, D], unused (may be
  // undefined) at guidance <= 1. Conditional and unconditional halves run as one batch of 2B.
  at::Tensor Solve(const at::Tensor& noise, const at::Tensor& cond, const at::Tensor& uncond,
                   const SolverOptions& options, const StepCallback& progress = nullptr) const;

  // One evaluation at t0 and x0 from it: what a one-step student computes. fp32. Keeps gradients
  // when they are on.
  at::Tensor OneStep(const at::Tensor& noise, const at::Tensor& cond, int64_t t0,
                     Parametrization parametrization) const;

  // x0 in fp32 from the network's output at t0. Keeps gradients when they are on.
  at::Tensor PredictX0(const at::Tensor& z, const at::Tensor& output, int64_t t0) const;

  // Scaled latents [B, C, h, w] -> pictures [B, channels, H, W], fp32 in [-1, 1] (clamped).
  at::Tensor DecodeToImages(const at::Tensor& latents) const;

  // Pictures in [-1, 1] -> uint8 [B, H, W, channels] as diffusers rounds them, on the CPU.
  static at::Tensor ToBytes(const at::Tensor& pictures);

  // [C, h, w] of the latents that the model was trained at. Throws Error if the U-Net's file does
  // not say sample_size.
  std::vector<int64_t> latent_shape() const;

  UNet2DConditionModel& unet() { return *unet_; }
  const UNet2DConditionModel& unet() const { return *unet_; }
  const ClipTextModel& text_encoder() const { return *text_encoder_; }
  const ClipTokenizer& tokenizer() const { return *tokenizer_; }
  const DdimScheduler& scheduler() const { return *scheduler_; }
  const Autoencoder& vae() const;  // throws Error if it was not loaded
  const ModelOptions& options() const { return options_; }

 private:
  TextToImageModel() = default;

  ModelOptions options_;
  std::unique_ptr<UNet2DConditionModel> unet_;
  std::unique_ptr<ClipTextModel> text_encoder_;
  std::unique_ptr<ClipTokenizer> tokenizer_;
  std::unique_ptr<DdimScheduler> scheduler_;
  std::unique_ptr<Autoencoder> vae_;
};

}  // namespace d2g::model
