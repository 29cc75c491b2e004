#include "model/text_to_image.h"

#include <ATen/core/grad_mode.h>

#include <utility>

#include "model/files/error.h"
#include "model/files/json_config.h"
#include "model/network/no_history.h"
#include "model/network/unet_evaluator.h"
#include "model/solver/guidance.h"
#include "model/solver/solver.h"

namespace d2g::model {

namespace {

// What an XL refiner is told about the picture wanted and about the one not wanted.
constexpr double kAestheticScore = 6.0;
constexpr double kNegativeAestheticScore = 2.5;

// Picture size, corner of the cut, and wanted size or score: [rows, 5 or 6].
at::Tensor TimeIds(const PipelineIndex& index, int64_t rows, int64_t height, int64_t width,
                   double score) {
  const auto h = static_cast<double>(height * index.vae_scale);
  const auto w = static_cast<double>(width * index.vae_scale);
  std::vector<double> ids = {h, w, 0, 0};
  if (index.requires_aesthetics_score) {
    ids.push_back(score);
  } else {
    ids.insert(ids.end(), {h, w});
  }
  return at::tensor(at::ArrayRef<double>(ids), at::kFloat).unsqueeze(0).expand({rows, -1});
}

void CheckRows(const PromptEmbeddings& text, const char* name, int64_t batch, bool one_is_enough) {
  if (!text.hidden.defined() || text.hidden.dim() != 3 ||
      (text.hidden.size(0) != batch && !(one_is_enough && text.hidden.size(0) == 1))) {
    Fail(name, " does not have ", one_is_enough ? "one embedding, or one" : "one embedding",
         " for each of ", batch, " noises");
  }
}

at::Tensor Both(const at::Tensor& uncond, const at::Tensor& cond) {
  if (!uncond.defined() || !cond.defined()) return {};
  std::vector<int64_t> shape(static_cast<size_t>(cond.dim()), -1);
  shape[0] = cond.size(0);
  return at::cat({uncond.expand(shape), cond});
}

// Whether the vae runs in fp32 beside networks in fp16.
bool Upcasts(const std::string& folder, const PipelineIndex& index, at::ScalarType dtype) {
  if (!index.is_xl || dtype != at::kHalf) return false;
  const std::string path = folder + "/vae/config.json";
  const JsonConfig config(ReadJsonFile(path), path);
  return config.Bool("force_upcast", config.String("_class_name", "") != "AutoencoderTiny");
}

}  // namespace

TextToImageModel TextToImageModel::Load(const std::string& folder, const ModelOptions& options) {
  LoadOptions load(at::TensorOptions().device(options.device).dtype(options.dtype));
  load.variant = options.variant;
  load.share_file = true;
  load.pack = options.pack;
  load.only_packed = !options.keep_weights;
  const auto progress = [&options] {
    if (options.progress) options.progress();
  };
  TextToImageModel model;
  model.options_ = options;
  model.options_.progress = nullptr;
  model.index_ = PipelineIndex::FromFolder(folder);
  const auto scheduler = [&](SolverKind kind) {
    return options.pipeline_scheduler_overrides
               ? ReadPipelineScheduler(folder, model.index_, kind)
               : SchedulerConfig::FromFile(folder + "/scheduler/scheduler_config.json", kind);
  };
  model.scheduler_config_ = scheduler(options.solver);
  try {
    model.scheduler_ = std::make_unique<DdimScheduler>(scheduler(SolverKind::kDdim));
  } catch (const Error& error) {
    if (options.solver == SolverKind::kDdim) throw;
    model.no_scheduler_ = error.what();
  }
  model.prompts_ =
      std::make_unique<PromptEncoder>(PromptEncoder::Load(folder, model.index_, load, progress));
  model.unet_ =
      std::make_unique<UNet2DConditionModel>(UNet2DConditionModel::Load(folder + "/unet", load));
  progress();
  if (options.load_vae) {
    if (!model.index_.has_vae) Fail(folder, "/model_index.json: there is no vae");
    if (Upcasts(folder, model.index_, options.dtype)) load.tensors = load.tensors.dtype(at::kFloat);
    model.vae_ = LoadAutoencoder(folder + "/vae", load);
    model.vae_->SetTiling(options.tile_vae);
    progress();
  }
  CheckPipelineFits(folder, model.index_, model.prompts_->Fit(), model.unet_->config(),
                    model.vae_ ? std::optional(model.vae_->latent_channels()) : std::nullopt);
  return model;
}

at::Tensor TextToImageModel::EncodePrompts(const std::vector<std::string>& prompts) const {
  if (index_.is_xl) Fail("an XL model's prompts have pooled embeddings too: not supported here");
  return prompts_->Encode(prompts).hidden;
}

UNetConditions TextToImageModel::Conditions(const PromptEmbeddings& cond,
                                            const PromptEmbeddings* uncond, int64_t height,
                                            int64_t width, double guidance) const {
  const int64_t batch = cond.hidden.size(0);
  UNetConditions conditions;
  conditions.encoder_hidden_states =
      uncond == nullptr ? cond.hidden : Both(uncond->hidden, cond.hidden);
  if (index_.is_xl) {
    conditions.text_embeds = uncond == nullptr ? cond.pooled : Both(uncond->pooled, cond.pooled);
    conditions.time_ids = TimeIds(index_, batch, height, width, kAestheticScore);
    if (uncond != nullptr) {
      conditions.time_ids =
          Both(TimeIds(index_, batch, height, width, kNegativeAestheticScore), conditions.time_ids);
    }
    conditions.time_ids = conditions.time_ids.to(options_.device);
  }
  const int64_t guidance_width = unet_->config().time_cond_proj_dim;
  if (guidance_width > 0) {
    conditions.timestep_cond =
        GuidanceEmbedding(guidance, batch, guidance_width).to(options_.device);
  }
  return conditions;
}

at::Tensor TextToImageModel::Solve(const at::Tensor& noise, const PromptEmbeddings& cond,
                                   const PromptEmbeddings& uncond, const SolverOptions& options,
                                   const StepCallback& progress) const {
  const at::NoGradGuard no_grad;
  const NoHistory no_history;
  const int64_t batch = noise.dim() == 4 ? noise.size(0) : -1;
  if (batch < 1 || noise.numel() == 0 || noise.size(1) != unet_->config().in_channels) {
    Fail("noise is ", noise.sizes(), ", not [B, ", unet_->config().in_channels, ", h, w]");
  }
  CheckRows(cond, "cond", batch, /*one_is_enough=*/false);
  const bool guided = BranchesAt(options.guidance) == 2;
  if (guided) CheckRows(uncond, "uncond", batch, /*one_is_enough=*/true);
  const std::unique_ptr<Solver> solver = MakeSolver(
      options.spacing ? scheduler_config_.WithSpacing(*options.spacing) : scheduler_config_,
      options.steps);
  const PreparedConditions conditions = unet_->PrepareConditions(
      Conditions(cond, guided ? &uncond : nullptr, noise.size(2), noise.size(3), options.guidance));

  const auto evaluations = static_cast<int64_t>(solver->timesteps().size());
  const bool record =
      IsWorthRecording(guided ? 2 * batch : batch, noise.size(2), noise.size(3), evaluations);
  UNetEvaluator network(
      [&](const at::Tensor& sample, const at::Tensor& timestep) {
        return unet_->Forward(sample, timestep, conditions);
      },
      record ? MakeCudaGraph(options_.device) : nullptr);
  // Moved to the device once: a copy in each step would wait for all work before it.
  const at::Tensor timesteps =
      at::tensor(at::ArrayRef<double>(solver->timesteps()), at::kFloat).to(options_.device);
  at::Tensor z =
      noise.to(at::device(options_.device).dtype(at::kFloat)) * solver->init_noise_sigma();
  for (int64_t i = 0; i < evaluations; ++i) {
    const auto step = static_cast<size_t>(i);
    at::Tensor output =
        network.Evaluate(solver->ScaleInput(z, step), timesteps.narrow(0, i, 1)).to(at::kFloat);
    if (guided) {
      output = Guide(output.narrow(0, 0, batch), output.narrow(0, batch, batch), options.guidance,
                     options.guidance_rescale);
    }
    z = solver->Step(output, step, z);
    if (progress) progress(i + 1, evaluations);
  }
  // It would fail again.
  if (network.recorder_failed()) SetCudaGraphs(false);
  return z;
}

at::Tensor TextToImageModel::Solve(const at::Tensor& noise, const at::Tensor& cond,
                                   const at::Tensor& uncond, const SolverOptions& options,
                                   const StepCallback& progress) const {
  if (index_.is_xl) Fail("an XL model needs pooled embeddings beside the states");
  return Solve(noise, PromptEmbeddings{cond, {}}, PromptEmbeddings{uncond, {}}, options, progress);
}

int64_t TextToImageModel::BranchesAt(double guidance) const {
  return guidance > 1 && unet_->config().time_cond_proj_dim == 0 ? 2 : 1;
}

at::Tensor TextToImageModel::OneStep(const at::Tensor& noise, const at::Tensor& cond, int64_t t0,
                                     Parametrization parametrization) const {
  const at::Tensor z =
      noise.to(at::device(options_.device).dtype(at::kFloat)) * scheduler().init_noise_sigma();
  return scheduler().PredictX0(z, unet_->Forward(z, static_cast<double>(t0), cond), t0,
                               parametrization);
}

at::Tensor TextToImageModel::PredictX0(const at::Tensor& z, const at::Tensor& output,
                                       int64_t t0) const {
  return scheduler().PredictX0(z, output, t0);
}

at::Tensor TextToImageModel::DecodeToImages(const at::Tensor& latents) const {
  const at::NoGradGuard no_grad;
  const NoHistory no_history;
  at::Tensor unscaled = latents.to(options_.device, at::kFloat);
  const std::vector<double>&mean = vae().latents_mean(), &deviation = vae().latents_std();
  if (index_.is_xl && !mean.empty() && !deviation.empty()) {
    const auto per_channel = [&](const std::vector<double>& values) {
      return at::tensor(at::ArrayRef<double>(values), unscaled.options()).view({1, -1, 1, 1});
    };
    unscaled = unscaled * per_channel(deviation) / vae().scaling_factor() + per_channel(mean);
  } else {
    unscaled = unscaled / vae().scaling_factor();
  }
  return vae().Decode(unscaled).to(at::kFloat).clamp(-1, 1);
}

at::Tensor TextToImageModel::ToBytes(const at::Tensor& pictures) {
  const at::NoGradGuard no_grad;
  return (pictures.to(at::kCPU, at::kFloat) / 2 + 0.5)
      .clamp(0, 1)
      .permute({0, 2, 3, 1})
      .mul(255)
      .round()
      .to(at::kByte)
      .contiguous();
}

std::vector<int64_t> TextToImageModel::latent_shape() const {
  const UNetConfig& config = unet_->config();
  if (config.sample_size < 1) Fail("the unet's config.json does not say sample_size");
  return {config.in_channels, config.sample_size, config.sample_width};
}

const DdimScheduler& TextToImageModel::scheduler() const {
  if (!scheduler_) Fail(no_scheduler_);
  return *scheduler_;
}

const Autoencoder& TextToImageModel::vae() const {
  if (!vae_) Fail("the vae was not loaded");
  return *vae_;
}

}  // namespace d2g::model
