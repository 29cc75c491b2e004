// transformers' CLIPTextModel and CLIPTextModelWithProjection, the text encoders of Stable
// Diffusion. Source: transformers 4.57.6, models/clip/modeling_clip.py.
#pragma once

#include <memory>
#include <string>

#include "model/config/clip_text_config.h"
#include "model/network/parameters.h"

namespace d2g::model {

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
  // Reads config.json and model.safetensors, by ClipTextParameterRules. The model has a projection
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
