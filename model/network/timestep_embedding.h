// Numbers to vectors, and the small network after them.
// Source: diffusers 0.35.2, models/embeddings.py.
#pragma once

#include <optional>
#include <string>

#include "model/network/layers.h"

namespace d2g::model {

// The sinusoidal embedding of `values` [N] of any real dtype (fractions allowed): fp32 [N, width],
// cosines before sines if `cosine_first`, then a zero if width is odd. freq_shift is subtracted
// from half the width where the frequencies are spaced.
at::Tensor SinusoidalEmbedding(const at::Tensor& values, int64_t width, bool cosine_first,
                               double freq_shift);

struct TimestepEmbeddingOptions {
  int64_t in = 0;
  int64_t width = 0;
  Activation activation = Activation::kSilu;
  std::optional<Activation> post_activation;
  int64_t condition_width = 0;  // 0: takes no condition
};

// diffusers' TimestepEmbedding: linear, activation, linear; despite its name it serves any vector.
struct TimestepEmbedding {
  TimestepEmbedding(ParameterReader& reader, const std::string& name,
                    const TimestepEmbeddingOptions& options);

  // x [N, in] -> [N, width].
  at::Tensor operator()(const at::Tensor& x) const;

  Linear linear_1, linear_2;
  Linear cond_proj;  // what it makes of a condition [N, condition_width] is added to x
  TimestepEmbeddingOptions options;
};

}  // namespace d2g::model
