// Triples as a store would answer with them, kept in memory.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "d2g/common/v1/recipe.pb.h"
#include "d2g/store/v1/triple_service.pb.h"
#include "services/dataset/latent_codec.h"
#include "services/dataset/noise.h"
#include "services/dataset/prompt_order.h"

namespace d2g::evaluate {

class SimulatedTriples {
 public:
  explicit SimulatedTriples(common::v1::DatasetRecipe recipe) : recipe_(std::move(recipe)) {}

  std::vector<float> Noise(int64_t index) const {
    std::vector<float> z(static_cast<size_t>(dataset::LatentElements(recipe_)));
    dataset::FillNoise(recipe_.seed(), index, z);
    return z;
  }

  void Add(int64_t index, const std::vector<float>& x) {
    triples_[index] = *dataset::MakeTriple(
        index, dataset::PromptIndexOf(recipe_.seed(), index, recipe_.prompt_count()), x,
        Noise(index), recipe_.storage_dtype());
  }

  store::v1::Triple& at(int64_t index) { return triples_.at(index); }
  // From now on reads that ask for `index` fail with DATA_LOSS.
  void Damage(int64_t index) { damaged_ = index; }

  absl::StatusOr<std::vector<store::v1::Triple>> Read(int shard,
                                                      const std::vector<int64_t>& indices) const {
    std::vector<store::v1::Triple> found;
    for (const int64_t index : indices) {
      if (index / recipe_.block_size() % recipe_.shard_count() != shard) {
        return absl::FailedPreconditionError("triple of another shard");
      }
      if (index == damaged_) return absl::DataLossError("damaged");
      if (!triples_.contains(index)) return absl::NotFoundError("no such triple");
      found.push_back(triples_.at(index));
    }
    return found;
  }

 private:
  const common::v1::DatasetRecipe recipe_;
  std::map<int64_t, store::v1::Triple> triples_;
  int64_t damaged_ = -1;
};

}  // namespace d2g::evaluate
