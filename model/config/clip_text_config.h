// The options and parameters of transformers' CLIPTextModel and CLIPTextModelWithProjection.
// Source: transformers 4.57.6, models/clip/{configuration_clip,modeling_clip}.py.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "model/config/parameter_match.h"

namespace d2g::model {

enum class TextActivation { kQuickGelu, kGelu, kTanhGelu, kSilu, kRelu, kMish, kTanh };

// A tensor's name as every version of transformers reads it: with "text_model.", which transformers
// 5 leaves out, before all that belongs to the text model itself. text_projection.weight and what
// only a whole CLIPModel has stay as they are.
std::string ClipTextTensorName(const std::string& name);

// By transformers' names, of which several mean one function.
std::optional<TextActivation> FindTextActivation(const std::string& name);
std::string TextActivationName(TextActivation activation);

// Defaults are those of transformers.
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
  TextActivation activation = TextActivation::kQuickGelu;  // hidden_act
  double layer_norm_eps = 1e-5;
  // Where pooled_output is taken: at the first of this id (at the start if there is none); 2, which
  // old configs say by mistake, means at the largest id.
  int64_t eos_token_id = 49407;
  int64_t projection_dim = 512;
  bool has_projection = false;  // CLIPTextModelWithProjection
};

// Names have the prefix "text_model.", all but "text_projection.weight".
ShapeMap ClipTextParameters(const ClipTextConfig& config);
// Names without the prefix are accepted. Left out are "position_ids", a CLIPModel's vision half, a
// projection that the config does not ask for and, with a note, layers beyond num_hidden_layers
// (fewer layers than the file has are known as clip skip).
ParameterRules ClipTextParameterRules(const ClipTextConfig& config);
// The config, with a projection if the file has one that fits.
ClipTextConfig WithStoredProjection(ClipTextConfig config, const StoredTensors& stored);

}  // namespace d2g::model
