// What a U-Net is conditioned on beside the sample, and what of it can be computed once a run.
// Source: diffusers 0.35.2, models/unets/unet_2d_condition.py and models/embeddings.py.
#pragma once

#include <optional>
#include <vector>

#include "model/config/unet_config.h"
#include "model/network/attention.h"
#include "model/network/timestep_embedding.h"

namespace d2g::model {

// One row a sample, or one row for all (not in encoder_hidden_states). Tensors may have any real
// dtype. What the network has no use for is ignored, except timestep_cond; what it needs must be
// there.
struct UNetConditions {
  at::Tensor encoder_hidden_states;  // [B, L, text_width]; undefined if nothing attends to it
  at::Tensor text_embeds = {};       // text_time: [B, P]
  at::Tensor time_ids = {};          // text_time: [B, n], P + n * addition_time_embed_dim =
                                     // projection_class_embeddings_input_dim
  at::Tensor class_labels = {};      // table and timestep: [B]; identity: [B, time embedding's
                                     // width]; projections: [B, input width]
  at::Tensor timestep_cond = {};     // [B, time_cond_proj_dim]; undefined for none
};

// What UNet2DConditionModel::PrepareConditions makes; good for any number of steps of that network
// while its parameters do not change.
struct PreparedConditions {
  int64_t rows = 0;  // samples conditioned on; 0: as many as there are
  // Keys and values of every cross attention, in the order in which the network visits them.
  std::vector<KeyValue> text;
  // [1 or rows, width] each, undefined if the network has none.
  at::Tensor time_condition;   // added to the timestep's embedding before its network
  at::Tensor class_embedding;  // added to, or joined with, the time embedding
  at::Tensor added_embedding;  // added to the time embedding
};

// diffusers' TextTimeEmbedding: a text pooled by attention of its mean to all tokens.
struct TextTimeEmbedding {
  TextTimeEmbedding(ParameterReader& reader, const std::string& name, int64_t text_width,
                    int64_t time_width, int64_t heads);

  // text [B, L, text_width] -> [B, time_width].
  at::Tensor operator()(const at::Tensor& text) const;

  LayerNorm norm1;
  at::Tensor positional_embedding;
  Linear k_proj, q_proj, v_proj;
  Linear proj;
  LayerNorm norm2;
  int64_t heads = 1;
};

// Everything between the conditions and the blocks: the embeddings of the timestep, the classes and
// the added conditions, and the projection of the text. Const methods are thread-safe and
// differentiable twice.
struct ConditionEmbedding {
  ConditionEmbedding(ParameterReader& reader, const UNetConfig& config);

  // All but the keys and values. `options` are the parameters'. Throws Error for conditions that
  // are missing or do not fit, by name.
  PreparedConditions Prepare(const UNetConditions& conditions,
                             const at::TensorOptions& options) const;
  // encoder_hidden_states as the cross attentions see them, in `options`.
  at::Tensor Text(const at::Tensor& hidden, const at::TensorOptions& options) const;
  // timesteps [1 or N] -> [1, N or rows, block_time_width], before the activation of the resnets.
  at::Tensor Time(const at::Tensor& timesteps, const PreparedConditions& prepared,
                  const at::TensorOptions& options) const;

  UNetConfig config;
  at::Tensor fourier_weight;  // with time_embedding_type fourier
  TimestepEmbedding time;
  Linear encoder_hid_proj;
  at::Tensor class_table;
  Linear class_linear;
  std::optional<TimestepEmbedding> class_mlp;
  std::optional<TextTimeEmbedding> text_pool;
  std::optional<TimestepEmbedding> added_mlp;

 private:
  at::Tensor EmbedNumbers(const at::Tensor& numbers) const;
  at::Tensor EmbedClasses(const at::Tensor& labels, const at::TensorOptions& options) const;
  at::Tensor EmbedTextTime(const UNetConditions& conditions,
                           const at::TensorOptions& options) const;
};

}  // namespace d2g::model
