#include "services/dataset/prompt_order.h"

#include <stdexcept>
#include <string>

#include "services/dataset/permutation.h"
#include "services/dataset/random.h"

namespace d2g::dataset {

int64_t PromptIndexOf(uint64_t seed, int64_t index, int64_t prompt_count) {
  if (index < 0 || prompt_count < 1) {
    throw std::invalid_argument("triple index " + std::to_string(index) + " of " +
                                std::to_string(prompt_count) +
                                " prompts: the index must be at least 0, the prompts at least 1");
  }
  const uint64_t cycle = static_cast<uint64_t>(index / prompt_count);
  const FeistelPermutation order(prompt_count, DeriveKey(seed, Purpose::kPrompts, cycle));
  return order(index % prompt_count);
}

}  // namespace d2g::dataset
