#include "model/weights/random_weights.h"

#include <cmath>

namespace d2g::model {

namespace {

constexpr uint64_t kGolden = 0x9E3779B97F4A7C15;

uint64_t Fnv1a(const std::string& text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) {
    hash ^= static_cast<uint8_t>(c);
    hash *= 0x100000001b3;
  }
  return hash;
}

// The finaliser of Steele, Lea and Flood's SplitMix64.
uint64_t Mix(uint64_t x) {
  x += kGolden;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

}  // namespace

at::Tensor RandomParameter(uint64_t seed, const std::string& name,
                           const std::vector<int64_t>& shape) {
  at::Tensor tensor = at::empty(shape, at::kFloat);
  float* out = tensor.mutable_data_ptr<float>();
  const int64_t count = tensor.numel();
  float scale = 0.1f, offset = 0.0f;
  if (shape.size() > 1) {
    const int64_t fan_in = shape[0] > 0 ? count / shape[0] : 1;
    scale = static_cast<float>(std::sqrt(3.0 / static_cast<double>(fan_in)));
  } else if (name.ends_with("weight")) {
    offset = 1.0f;
  }
  const uint64_t key = Fnv1a(name) + seed * kGolden;
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t bits = Mix(key + static_cast<uint64_t>(i)) >> 40;
    const float u = static_cast<float>(bits) * 0x1p-23f - 1.0f;
    // Two roundings, as numpy does it: no contraction.
    volatile float product = u * scale;
    out[i] = offset + product;
  }
  return tensor;
}

TensorMap RandomParameters(uint64_t seed,
                           const std::map<std::string, std::vector<int64_t>>& shapes) {
  TensorMap tensors;
  for (const auto& [name, shape] : shapes) {
    tensors.emplace(name, RandomParameter(seed, name, shape));
  }
  return tensors;
}

}  // namespace d2g::model
