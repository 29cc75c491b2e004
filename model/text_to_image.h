// A whole text-to-image latent diffusion model from a diffusers folder, as StableDiffusionPipeline
// and StableDiffusionXLPipeline run it: prompts to embeddings, noise to latents, latents to
// pictures.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/network/autoencoder.h"
#include "model/network/unet_2d_condition.h"
#include "model/pipeline/pipeline_index.h"
#include "model/prompt_encoder.h"
#include "model/solver/ddim_scheduler.h"

namespace d2g::model {

struct SolverOptions {
  int64_t steps = 50;
  // u + g (c - u); at most 1 means one conditional evaluation and no unconditional one.
  double guidance = 3.0;
  // Share in [0, 1] by which guidance is moved back to the deviation of c; see Guide.
  double guidance_rescale = 0;
  // One of kTimestepSpacings; nothing takes the scheduler file's.
  std::optional<std::string> spacing;
};

// Called after each evaluation of the network with the number done and the number of all (for ddim,
// euler and dpmpp_2m one a step). It may throw to stop the run: the exception passes through Solve.
// It must not switch gradients on.
using StepCallback = std::function<void(int64_t done, int64_t evaluations)>;

struct ModelOptions {
  at::Device device = at::kCPU;
  // The networks' dtype; solvers and results are fp32. An XL model's vae whose file says
  // force_upcast runs in fp32 where this is fp16, as in diffusers.
  at::ScalarType dtype = at::kFloat;
  SolverKind solver = SolverKind::kDdim;
  // StableDiffusionPipeline's constructor changes the scheduler that it is given: steps_offset
  // becomes 1 and clip_sample false. On: what that pipeline computes. Off: what a scheduler made
  // from the file computes. XL pipelines change nothing. Published files hold those values anyway.
  bool pipeline_scheduler_overrides = true;
  bool load_vae = true;   // without it DecodeToImages throws
  bool tile_vae = false;  // see Autoencoder::SetTiling
  std::string variant;    // of the weight files, see LoadOptions
  // Off: the networks are not laid out for fast inference on the CPU: for one that is not run.
  bool pack = true;
  // Off: less memory where the files hold another dtype, but no gradients; see
  // LoadOptions::only_packed.
  bool keep_weights = true;
  // Called after each network of a Load. It may throw to stop: the exception passes through.
  std::function<void()> progress = nullptr;
};

// Const methods may be called from several threads at once; each runs without gradients unless it
// says otherwise.
class TextToImageModel {
 public:
  // Reads model_index.json and the components that it names. Throws Error naming the file, option
  // or tensor that is missing, wrong, or does not fit the others.
  static TextToImageModel Load(const std::string& folder, const ModelOptions& options = {});

  // The states of Stable Diffusion 1.x and 2.x alone: [prompts.size(), model_max_length, hidden].
  // "" is the unconditional prompt. Throws Error for XL models, whose networks want more.
  at::Tensor EncodePrompts(const std::vector<std::string>& prompts) const;

  const PromptEncoder& prompts() const { return *prompts_; }

  // Integrates from unit-normal noise [B, C, h, w] to latents [B, C, h, w] (fp32, scaled as the
  // U-Net sees them) with the solver of options(). cond has B rows; uncond 1 or B, unused (may be
  // undefined) at guidance <= 1. Conditional and unconditional halves run as one batch of 2B. A
  // network with time_cond_proj_dim is told the guidance instead and evaluated once. On a GPU the
  // evaluation of a small batch is recorded and replayed: see UNetEvaluator.
  at::Tensor Solve(const at::Tensor& noise, const PromptEmbeddings& cond,
                   const PromptEmbeddings& uncond, const SolverOptions& options,
                   const StepCallback& progress = nullptr) const;
  // The same for models that need no pooled embeddings.
  at::Tensor Solve(const at::Tensor& noise, const at::Tensor& cond, const at::Tensor& uncond,
                   const SolverOptions& options, const StepCallback& progress = nullptr) const;

  // Rows that the U-Net computes for each sample and step: 2 with classifier-free guidance.
  int64_t BranchesAt(double guidance) const;

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

  // [C, h, w] of the latents that the pipeline draws. Throws Error if the U-Net's file does not say
  // sample_size.
  std::vector<int64_t> latent_shape() const;

  UNet2DConditionModel& unet() { return *unet_; }
  const UNet2DConditionModel& unet() const { return *unet_; }
  const SchedulerConfig& scheduler_config() const { return scheduler_config_; }
  // DDIM's, whatever the solver: for x0 from one evaluation. Throws Error if the file has options
  // that are another solver's alone.
  const DdimScheduler& scheduler() const;
  const Autoencoder& vae() const;  // throws Error if it was not loaded
  const PipelineIndex& index() const { return index_; }
  const ModelOptions& options() const { return options_; }

 private:
  TextToImageModel() = default;
  // What the network is told besides sample and timestep, for latents of h x w.
  UNetConditions Conditions(const PromptEmbeddings& cond, const PromptEmbeddings* uncond,
                            int64_t height, int64_t width, double guidance) const;

  ModelOptions options_;
  PipelineIndex index_;
  SchedulerConfig scheduler_config_;
  std::unique_ptr<UNet2DConditionModel> unet_;
  std::unique_ptr<PromptEncoder> prompts_;
  std::unique_ptr<DdimScheduler> scheduler_;
  std::string no_scheduler_;  // why there is none
  std::unique_ptr<Autoencoder> vae_;
};

}  // namespace d2g::model
