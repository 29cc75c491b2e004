// Attention and the transformers of the U-Net.
// Source: diffusers 0.35.2, models/attention_processor.py, attention.py and
// transformers/transformer_2d.py.
#pragma once

#include <string>
#include <vector>

#include "model/network/layers.h"

namespace d2g::model {

// [B, L, heads * d] -> [B, heads, L, d] and back.
at::Tensor SplitHeads(const at::Tensor& x, int64_t heads);
at::Tensor MergeHeads(const at::Tensor& x);

// The points of a picture [B, C, H, W] as tokens [B, H * W, C], and back to a picture of the size
// and memory order of `like`. Views where the channels lie last in memory.
at::Tensor ToTokens(const at::Tensor& picture);
at::Tensor ToPicture(const at::Tensor& tokens, const at::Tensor& like);

// Keys and values made before, [B, heads, L, d] each.
struct KeyValue {
  at::Tensor key;
  at::Tensor value;
};

// Multi-head attention of one sequence to itself or to another. Parameters: to_q, to_k, to_v
// (without bias), to_out.0.
struct Attention {
  Attention(ParameterReader& reader, const std::string& name, int64_t width, int64_t context_width,
            int64_t heads, int64_t head_dim, bool upcast);

  // x [B, L, width] to itself, plus `added` of that shape unless undefined.
  at::Tensor SelfAttend(const at::Tensor& x, const at::Tensor& added = {}) const;
  // x [B, L, width] to a context prepared by MakeKeyValue, plus `added` unless undefined.
  at::Tensor CrossAttend(const at::Tensor& x, const KeyValue& context,
                         const at::Tensor& added = {}) const;
  // context [B, L, context_width].
  KeyValue MakeKeyValue(const at::Tensor& context) const;

  Linear to_q, to_k, to_v, to_out;
  int64_t heads = 1;
  bool upcast = false;

 private:
  at::Tensor Attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                    const at::Tensor& added) const;
};

struct TransformerOptions {
  int64_t channels = 0;
  int64_t heads = 1;
  int64_t depth = 1;
  int64_t context_width = 0;
  int64_t norm_groups = 32;
  bool linear_projection = false;
  bool upcast = false;
  bool only_cross_attention = false;  // the first attention is to the text, too
};

// diffusers' BasicTransformerBlock: self attention, cross attention, GEGLU feed-forward.
struct TransformerLayer {
  TransformerLayer(ParameterReader& reader, const std::string& name, int64_t width,
                   int64_t head_dim, const TransformerOptions& options);

  // `text` points at text_entries() entries.
  at::Tensor operator()(const at::Tensor& x, const KeyValue* text) const;
  size_t text_entries() const { return only_cross_attention ? 2 : 1; }

  LayerNorm norm1;
  Attention attn1;
  LayerNorm norm2;
  Attention attn2;
  LayerNorm norm3;
  Linear ff_in, ff_out;
  bool only_cross_attention = false;
};

// diffusers' Transformer2DModel over a feature map.
struct SpatialTransformer {
  SpatialTransformer(ParameterReader& reader, const std::string& name,
                     const TransformerOptions& options);

  // x [B, channels, H, W]; `text` points at text_entries() entries.
  at::Tensor operator()(const at::Tensor& x, const KeyValue* text) const;
  // Keys and values that all layers together read.
  size_t text_entries() const;
  // Appends them, from context [B, L, context_width].
  void MakeKeyValues(const at::Tensor& context, std::vector<KeyValue>& out) const;

  GroupNorm norm;
  Linear proj_in;
  std::vector<TransformerLayer> layers;
  Linear proj_out;

 private:
  at::Tensor Transform(const at::Tensor& tokens, const KeyValue* text) const;
};

}  // namespace d2g::model
