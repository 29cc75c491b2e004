#include "worker/model/text_to_image.h"

#include <algorithm>
#include <map>
#include <utility>

#include "worker/model/error.h"
#include "worker/model/json_config.h"

namespace d2g::model {

namespace {

// The class that a component names in model_index.json, which holds [library, class].
std::string ClassOf(const JsonConfig& index, const char* component) {
  const nlohmann::json& value = index.Get(component);
  if (!value.is_array() || value.size() != 2 || !value[1].is_string()) {
    index.FailAt(component, "component is missing (must be [library, class])");
  }
  return value[1].get<std::string>();
}

void RequireClass(const JsonConfig& index, const char* component, const std::string& expected) {
  if (ClassOf(index, component) != expected) {
    index.FailAt(component, "not supported (only " + expected + " is)");
  }
}

}  // namespace

TextToImageModel TextToImageModel::Load(const std::string& folder, const ModelOptions& options) {
  const std::string index_path = folder + "/model_index.json";
  const JsonConfig index(ReadJsonFile(index_path), index_path);
  RequireClass(index, "unet", "UNet2DConditionModel");
  RequireClass(index, "text_encoder", "CLIPTextModel");
  const std::string tokenizer_class = ClassOf(index, "tokenizer");
  if (tokenizer_class != "CLIPTokenizer" && tokenizer_class != "CLIPTokenizerFast") {
    index.FailAt("tokenizer", "not supported (only CLIPTokenizer and CLIPTokenizerFast are)");
  }

  LoadOptions load(at::TensorOptions().device(options.device).dtype(options.dtype));
  load.variant = options.variant;
  load.share_file = true;
  const auto progress = [&options] {
    if (options.progress) options.progress();
  };
  TextToImageModel model;
  model.options_ = options;
  model.options_.progress = nullptr;
  DdimConfig scheduler = DdimConfig::FromFile(folder + "/scheduler/scheduler_config.json");
  scheduler.steps_offset = 1;
  scheduler.clip_sample = false;
  model.scheduler_ = std::make_unique<DdimScheduler>(scheduler);
  model.tokenizer_ = std::make_unique<ClipTokenizer>(ClipTokenizer::Load(
      folder + "/tokenizer",
      tokenizer_class == "CLIPTokenizerFast" ? TokenizerFlavour::kFast : TokenizerFlavour::kSlow));
  model.text_encoder_ =
      std::make_unique<ClipTextModel>(ClipTextModel::Load(folder + "/text_encoder", load));
  progress();
  model.unet_ =
      std::make_unique<UNet2DConditionModel>(UNet2DConditionModel::Load(folder + "/unet", load));
  progress();
  model.unet_->PrepareForInference();
  if (options.load_vae) {
    if (!IsAutoencoderClass(ClassOf(index, "vae"))) {
      index.FailAt("vae", "not supported (only AutoencoderKL and AutoencoderTiny are)");
    }
    model.vae_ = LoadAutoencoder(folder + "/vae", load);
    progress();
    if (model.vae_->latent_channels() != model.unet_->config().in_channels) {
      Fail(folder, ": the vae's latent_channels ", model.vae_->latent_channels(),
           " differ from the unet's in_channels ", model.unet_->config().in_channels);
    }
  }
  const int64_t text_width = model.text_encoder_->config().hidden_size;
  if (model.unet_->config().text_width() != text_width) {
    Fail(folder, ": the unet's text width ", model.unet_->config().text_width(),
         " (cross_attention_dim or encoder_hid_dim) differs from the text encoder's hidden_size ",
         text_width);
  }
  if (model.tokenizer_->model_max_length() >
      model.text_encoder_->config().max_position_embeddings) {
    Fail(folder, ": the tokenizer's model_max_length ", model.tokenizer_->model_max_length(),
         " is over the text encoder's max_position_embeddings ",
         model.text_encoder_->config().max_position_embeddings);
  }
  return model;
}

at::Tensor TextToImageModel::EncodePrompts(const std::vector<std::string>& prompts) const {
  const at::NoGradGuard no_grad;
  if (prompts.empty()) Fail("no prompt given");
  const int64_t length = tokenizer_->model_max_length();
  std::map<std::string, int64_t> rows;
  std::vector<int64_t> ids, row_of;
  for (const std::string& prompt : prompts) {
    const auto [it, is_new] = rows.try_emplace(prompt, static_cast<int64_t>(rows.size()));
    if (is_new) {
      const std::vector<int64_t> tokens = tokenizer_->Encode(prompt);
      ids.insert(ids.end(), tokens.begin(), tokens.end());
    }
    row_of.push_back(it->second);
  }
  const at::Tensor unique =
      text_encoder_->Forward(at::tensor(at::ArrayRef<int64_t>(ids), at::kLong).view({-1, length}));
  return unique.index_select(
      0, at::tensor(at::ArrayRef<int64_t>(row_of), at::kLong).to(unique.device()));
}

at::Tensor TextToImageModel::Solve(const at::Tensor& noise, const at::Tensor& cond,
                                   const at::Tensor& uncond, const SolverOptions& options,
                                   const StepCallback& progress) const {
  const at::NoGradGuard no_grad;
  const int64_t batch = noise.dim() == 4 ? noise.size(0) : -1;
  if (batch < 1 || noise.size(1) != unet_->config().in_channels) {
    Fail("noise is ", noise.sizes(), ", not [B, ", unet_->config().in_channels, ", h, w]");
  }
  if (!cond.defined() || cond.dim() != 3 || cond.size(0) != batch) {
    Fail("cond does not have one embedding for each of ", batch, " noises");
  }
  const bool guided = options.guidance > 1;
  at::Tensor hidden = cond;
  if (guided) {
    if (!uncond.defined() || uncond.dim() != 3 ||
        (uncond.size(0) != 1 && uncond.size(0) != batch)) {
      Fail("guidance ", options.guidance, " needs uncond [1 or ", batch, ", L, D]");
    }
    hidden = at::cat({uncond.expand({batch, -1, -1}), cond});
  }
  const PreparedConditions conditions = unet_->PrepareConditions({hidden.to(options_.device)});
  const std::vector<int64_t> timesteps = scheduler_->Timesteps(options.steps, options.spacing);

  at::Tensor z =
      noise.to(at::device(options_.device).dtype(at::kFloat)) * scheduler_->init_noise_sigma();
  for (size_t i = 0; i < timesteps.size(); ++i) {
    const double timestep = static_cast<double>(timesteps[i]);
    at::Tensor output;
    if (guided) {
      const at::Tensor both = unet_->Forward(z, timestep, conditions).to(at::kFloat);
      const at::Tensor u = both.narrow(0, 0, batch), c = both.narrow(0, batch, batch);
      output = u + options.guidance * (c - u);
    } else {
      output = unet_->Forward(z, timestep, conditions).to(at::kFloat);
    }
    z = scheduler_->Step(output, timesteps[i], z, options.steps);
    if (progress) progress(static_cast<int64_t>(i) + 1, options.steps);
  }
  return z;
}

at::Tensor TextToImageModel::OneStep(const at::Tensor& noise, const at::Tensor& cond, int64_t t0,
                                     Parametrization parametrization) const {
  const at::Tensor z =
      noise.to(at::device(options_.device).dtype(at::kFloat)) * scheduler_->init_noise_sigma();
  return scheduler_->PredictX0(z, unet_->Forward(z, static_cast<double>(t0), cond), t0,
                               parametrization);
}

at::Tensor TextToImageModel::PredictX0(const at::Tensor& z, const at::Tensor& output,
                                       int64_t t0) const {
  return scheduler_->PredictX0(z, output, t0);
}

at::Tensor TextToImageModel::DecodeToImages(const at::Tensor& latents) const {
  const at::NoGradGuard no_grad;
  return vae().Decode(latents / vae().scaling_factor()).to(at::kFloat).clamp(-1, 1);
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

const Autoencoder& TextToImageModel::vae() const {
  if (!vae_) Fail("the vae was not loaded");
  return *vae_;
}

}  // namespace d2g::model
