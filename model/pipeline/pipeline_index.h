// model_index.json: which pipeline a model folder is, and of what it consists.
// Source: diffusers 0.35.2, pipelines/stable_diffusion and pipelines/stable_diffusion_xl.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/tokenizer/clip_tokenizer.h"

namespace d2g::model {

// A tokenizer and its encoder, as sub-folders.
struct TextComponents {
  std::string tokenizer;
  TokenizerFlavour flavour = TokenizerFlavour::kSlow;
  std::string encoder;
  bool projects = false;  // CLIPTextModelWithProjection: gives the pooled embedding
};

struct PipelineIndex {
  // Reads `folder`/model_index.json. Throws Error naming the pipeline or the component that is not
  // supported or missing. What does not change latents (safety checker, feature extractor, image
  // encoder) is ignored. Without _class_name a second text encoder tells the XL pipeline.
  static PipelineIndex FromFolder(const std::string& folder);

  // StableDiffusionXLPipeline or, for refiners, StableDiffusionXLImg2ImgPipeline: penultimate
  // states of all encoders side by side, pooled text and sizes beside the timestep.
  bool is_xl = false;
  std::vector<TextComponents> texts;  // one, or two for an XL base model
  bool has_vae = false;
  // Picture side / latent side as pipelines reckon it from the vae's config.json; 8 without a vae.
  int64_t vae_scale = 8;
  // XL: a negative prompt that was not given is zeros, not "".
  bool force_zeros_for_empty_prompt = true;
  // XL refiners: the network is told a score in place of the wanted size.
  bool requires_aesthetics_score = false;
};

}  // namespace d2g::model
