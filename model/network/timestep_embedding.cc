#include "model/network/timestep_embedding.h"

#include <cmath>

namespace d2g::model {

namespace {

constexpr double kMaxPeriod = 10000;

}  // namespace

at::Tensor SinusoidalEmbedding(const at::Tensor& values, int64_t width, bool cosine_first,
                               double freq_shift) {
  const at::Tensor numbers = values.to(at::kFloat);
  const int64_t half = width / 2;
  const at::Tensor exponent = at::arange(half, numbers.options()) * -std::log(kMaxPeriod) /
                              (static_cast<double>(half) - freq_shift);
  const at::Tensor angle = numbers.unsqueeze(1) * at::exp(exponent).unsqueeze(0);
  const at::Tensor sine = at::sin(angle), cosine = at::cos(angle);
  at::Tensor embedding = cosine_first ? at::cat({cosine, sine}, 1) : at::cat({sine, cosine}, 1);
  if (width % 2 == 1) embedding = at::constant_pad_nd(embedding, {0, 1});
  return embedding;
}

TimestepEmbedding::TimestepEmbedding(ParameterReader& reader, const std::string& name,
                                     const TimestepEmbeddingOptions& o)
    : linear_1(reader, name + ".linear_1", o.in, o.width),
      linear_2(reader, name + ".linear_2", o.width, o.width),
      options(o) {
  if (o.condition_width > 0) {
    cond_proj = Linear(reader, name + ".cond_proj", o.condition_width, o.in, /*has_bias=*/false);
  }
}

at::Tensor TimestepEmbedding::operator()(const at::Tensor& x) const {
  const at::Tensor h = linear_2(Activate(options.activation, linear_1(x)));
  return options.post_activation ? Activate(*options.post_activation, h) : h;
}

}  // namespace d2g::model
