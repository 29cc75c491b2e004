// Random parameters that C++ and Python (tools/goldens/random_weights.py) make alike, bit for bit,
// so that models of any size can be compared without shipping weights.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model/weights/safetensors.h"

namespace d2g::model {

// Fills one parameter. Element i of parameter `name` is a function of (seed, name, i) only:
// u = the top 24 bits of splitmix64(fnv1a64(name) + seed * 0x9E3779B97F4A7C15 + i), as a number in
// [-1, 1). One-dimensional "weight"s (norms) are 1 + u/10, one-dimensional "bias"es u/10; all
// others u * sqrt(3 / fan_in), which keeps the variance of what passes through. fp32.
at::Tensor RandomParameter(uint64_t seed, const std::string& name,
                           const std::vector<int64_t>& shape);

// All parameters of a network.
TensorMap RandomParameters(uint64_t seed,
                           const std::map<std::string, std::vector<int64_t>>& shapes);

}  // namespace d2g::model
