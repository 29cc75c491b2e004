// Held-out triples, as the evaluation works with them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace d2g::evaluate {

// N triples that no step was trained on. A plain value.
struct HeldOut {
  std::vector<int64_t> indices;
  // Position in the prompt list, and the prompt.
  std::vector<int64_t> prompt_of;
  std::vector<std::string> prompts;
  at::Tensor z;  // [N,C,H,W] fp32 noise
  at::Tensor x;  // [N,C,H,W] fp32, the teacher's solution

  int64_t size() const { return static_cast<int64_t>(indices.size()); }
};

}  // namespace d2g::evaluate
