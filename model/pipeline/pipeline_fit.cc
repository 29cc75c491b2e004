#include "model/pipeline/pipeline_fit.h"

#include "model/files/error.h"

namespace d2g::model {

namespace {

constexpr int64_t kTimeIds = 6;
constexpr int64_t kRefinerTimeIds = 5;

}  // namespace

int64_t TimeIdCount(const PipelineIndex& index) {
  return index.requires_aesthetics_score ? kRefinerTimeIds : kTimeIds;
}

int64_t PoolingEncoder(const PipelineIndex& index) {
  if (!index.is_xl) return -1;
  for (size_t i = 0; i < index.texts.size(); ++i) {
    if (index.texts[i].projects) return static_cast<int64_t>(i);
  }
  return -1;
}

SchedulerConfig ReadPipelineScheduler(const std::string& folder, const PipelineIndex& index,
                                      SolverKind kind) {
  SchedulerConfig config =
      SchedulerConfig::FromFile(folder + "/scheduler/scheduler_config.json", kind);
  if (!index.is_xl) {
    config.steps_offset = 1;
    config.clip_sample = false;
  }
  return config;
}

void CheckTextsFit(const std::string& folder, const PipelineIndex& index,
                   const std::vector<TextFit>& texts) {
  const int64_t length = texts.front().model_max_length;
  for (const TextFit& text : texts) {
    const TextComponents& names = text.names;
    if (text.model_max_length != length) {
      Fail(folder, ": model_max_length of ", names.tokenizer, " is ", text.model_max_length,
           ", of ", texts.front().names.tokenizer, " ", length);
    }
    if (names.projects && !text.encoder.has_projection) {
      Fail(folder, "/", names.encoder, ": there is no text_projection.weight, which ",
           "CLIPTextModelWithProjection has");
    }
    if (index.is_xl && text.encoder.num_hidden_layers < 1) {
      Fail(folder, "/", names.encoder, ": num_hidden_layers is 0: there is no penultimate state");
    }
    if (length > text.encoder.max_position_embeddings) {
      Fail(folder, ": model_max_length ", length, " of ", names.tokenizer, " is over ",
           names.encoder, "'s max_position_embeddings ", text.encoder.max_position_embeddings);
    }
  }
}

void CheckPipelineFits(const std::string& folder, const PipelineIndex& index,
                       const std::vector<TextFit>& texts, const UNetConfig& unet,
                       std::optional<int64_t> vae_channels) {
  const std::string source = folder + "/unet/config.json";
  if (unet.out_channels != unet.in_channels) {
    Fail(source, ": option \"out_channels\" is ", unet.out_channels,
         ", not in_channels = ", unet.in_channels, ": a solver needs what it put in");
  }
  if (vae_channels && *vae_channels != unet.in_channels) {
    Fail(folder, ": the vae's latent_channels ", *vae_channels,
         " differ from the unet's in_channels ", unet.in_channels);
  }
  int64_t width = 0;
  for (const TextFit& text : texts) width += text.encoder.hidden_size;
  if (unet.text_width() != width) {
    Fail(folder, ": the unet's text width ", unet.text_width(),
         " (cross_attention_dim or encoder_hid_dim) differs from the text encoders' hidden_size ",
         width);
  }
  if (unet.class_embed_type != ClassEmbedType::kNone) {
    Fail(source, ": option \"class_embed_type\" asks for labels, which prompts do not give");
  }
  const bool wants_pooled = unet.addition_embed_type == AdditionEmbedType::kTextTime;
  if (wants_pooled != index.is_xl) {
    Fail(source, ": option \"addition_embed_type\" is ", wants_pooled ? "" : "not ",
         "text_time: not supported in this pipeline");
  }
  if (!wants_pooled) return;
  const int64_t pooling = PoolingEncoder(index);
  const int64_t pooled =
      pooling < 0 ? 0 : texts.at(static_cast<size_t>(pooling)).encoder.projection_dim;
  const int64_t told = pooled + TimeIdCount(index) * unet.addition_time_embed_dim;
  if (told != unet.projection_class_embeddings_input_dim) {
    Fail(source, ": option \"projection_class_embeddings_input_dim\" is ",
         unet.projection_class_embeddings_input_dim, ", not ", told, ": projection_dim ", pooled,
         " and ", TimeIdCount(index), " times addition_time_embed_dim ",
         unet.addition_time_embed_dim);
  }
}

}  // namespace d2g::model
