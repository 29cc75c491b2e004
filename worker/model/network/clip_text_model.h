// transformers' CLIPTextModel and CLIPTextModelWithProjection, the text encoders of Stable
// Diffusion. Source: transformers 4.57.6, models/clip/modeling_clip.py.
#pragma once

#include <memory>
#include <string>

#include "worker/model/network/parameters.h"

namespace d2g::model {

// Defaults are those of transformers.
// A tensor's name as every version of transformers reads it: with "text_model.", which transformers
// 5 leaves out, before all that belongs to the text model itself. text_projection.weight and what
// only a whole CLIPModel has stay as they are.
std::string ClipTextTensorName(const std::string& name);

struct ClipTextConfig {
  // Reads the config of a text model, or the "text_config" of a whole CLIPModel. Throws Error
  // naming file, option and value for what is not supported, other kinds of models among it.
  static ClipTextConfig FromFile(const std::string& path);

  int64_t vocab_size = 49408;
  int64_t hidden_size = 512;
  int64_t intermediate_size = 2048;
  int64_t num_hidden_layers = 12;
  int64_t num_attention_heads = 8;
  int64_t max_position_embeddings = 77;
  std::string hidden_act = "quick_gelu";
  double layer_norm_eps = 1e-5;
  // Where pooled_output is taken: at the first of this id (at the start if there is none); 2, which
  // old configs say by mistake, means at the largest id.
  int64_t eos_token_id = 49407;
  int64_t projection_dim = 512;
  bool has_projection = false;  // CLIPTextModelWithProjection
};

struct ClipTextOutput {
  at::Tensor last_hidden_state;         // [B, L, hidden_size], after the final layer norm
  at::Tensor penultimate_hidden_state;  // [B, L, hidden_size], before the last layer and without
                                        // layer norm; undefined if there is no layer
  at::Tensor pooled_output;             // [B, hidden_size], of last_hidden_state
  at::Tensor text_embeds;               // [B, projection_dim]; undefined without projection
};

// Run and Forward are const and may be called from several threads at once.
class ClipTextModel {
 public:
  // Reads config.json and model.safetensors. Keys with and without the prefix "text_model." are
  // accepted; "position_ids" and a CLIPModel's vision half are ignored. The model has a projection
  // if the config names CLIPTextModelWithProjection, or if there is one that fits. Throws Error for
  // missing, extra or wrongly shaped tensors, each by name.
  static ClipTextModel Load(const std::string& folder, const LoadOptions& options = {});

  ClipTextModel(const ClipTextConfig& config, const TensorMap& parameters,
                const at::TensorOptions& options = at::kFloat);
  ~ClipTextModel();
  ClipTextModel(ClipTextModel&&) noexcept;
  ClipTextModel& operator=(ClipTextModel&&) noexcept;

  // input_ids int64 [B, L], L at most max_position_embeddings, ids below vocab_size. Throws Error
  // otherwise.
  ClipTextOutput Run(const at::Tensor& input_ids) const;
  // The last_hidden_state alone.
  at::Tensor Forward(const at::Tensor& input_ids) const;

  // Parameters by name, all but "text_projection.weight" with the prefix "text_model."; frozen by
  // convention.
  const TensorMap& parameters() const;
  const ClipTextConfig& config() const;

  // Names and shapes of the parameters that `config` asks for.
  static ShapeMap ParameterShapes(const ClipTextConfig& config);

 private:
  struct Impl;
  ClipTextModel();
  std::unique_ptr<Impl> impl_;
};

}  // namespace d2g::model
