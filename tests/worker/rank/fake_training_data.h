// Training data in memory, with faults on demand.
#pragma once

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "services/dataset/latent_codec.h"
#include "services/dataset/noise.h"
#include "services/dataset/prompt_order.h"
#include "services/store/client/append_limits.h"
#include "worker/rank/training_data.h"

namespace d2g::rank {

// A dataset of small latents on two shards.
inline common::v1::DatasetRecipe SmallRecipe() {
  common::v1::DatasetRecipe recipe;
  recipe.set_prompt_count(10);
  recipe.set_latent_channels(2);
  recipe.set_latent_height(2);
  recipe.set_latent_width(3);
  recipe.set_storage_dtype(common::v1::DTYPE_FP16);
  recipe.set_seed(5);
  recipe.set_block_size(16);
  recipe.set_holdout_every(8);
  recipe.set_shard_count(2);
  return recipe;
}

// x of triple i: i + element / 8, exact in fp16 for i below 256.
inline std::vector<float> SolutionOf(const common::v1::DatasetRecipe& recipe, int64_t index) {
  std::vector<float> x(dataset::LatentElements(recipe));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(index) + 0.125f * i;
  return x;
}

inline std::vector<float> NoiseOf(const common::v1::DatasetRecipe& recipe, int64_t index) {
  std::vector<float> z(dataset::LatentElements(recipe));
  dataset::FillNoise(recipe.seed(), index, z);
  return z;
}

inline store::v1::Triple TripleOf(const common::v1::DatasetRecipe& recipe, int64_t index) {
  return *dataset::MakeTriple(
      index, dataset::PromptIndexOf(recipe.seed(), index, recipe.prompt_count()),
      SolutionOf(recipe, index), NoiseOf(recipe, index), recipe.storage_dtype());
}

// Thread-safe. Faults may be changed at any time.
class FakeTrainingData : public TrainingData {
 public:
  explicit FakeTrainingData(common::v1::DatasetRecipe recipe) : recipe_(std::move(recipe)) {}

  absl::StatusOr<dataset::IndexSet> Snapshot(int64_t epoch, const absl::Notification&) override {
    absl::MutexLock lock(&mutex_);
    snapshots_asked_.push_back(epoch);
    return sealed_[std::min<size_t>(epoch, sealed_.size() - 1)];
  }

  absl::StatusOr<std::vector<store::v1::Triple>> ReadTriples(
      int shard, const std::vector<int64_t>& indices) override {
    absl::Duration delay;
    {
      absl::MutexLock lock(&mutex_);
      delay = delay_;
      ++reads_;
    }
    absl::SleepFor(delay);
    absl::MutexLock lock(&mutex_);
    if (down_.count(shard)) return absl::UnavailableError("shard is down");
    if (std::ssize(indices) > store::IndicesPerRead(recipe_)) {
      return absl::InvalidArgumentError("too many indices");
    }
    std::vector<store::v1::Triple> triples;
    for (const int64_t index : indices) {
      if (index / recipe_.block_size() % recipe_.shard_count() != shard) {
        return absl::InvalidArgumentError(absl::StrCat("index ", index, " is not on this shard"));
      }
      if (missing_.count(index)) return absl::NotFoundError(absl::StrCat("index ", index));
      if (damaged_.count(index)) return absl::DataLossError(absl::StrCat("index ", index));
      triples.push_back(TripleOf(recipe_, index));
      if (const auto changed = changed_.find(index); changed != changed_.end()) {
        triples.back() = changed->second;
      }
    }
    return triples;
  }

  // By epoch; later epochs see the last.
  void SetSealed(std::vector<dataset::IndexSet> sealed) {
    absl::MutexLock lock(&mutex_);
    sealed_ = std::move(sealed);
  }
  void SetDelay(absl::Duration delay) {
    absl::MutexLock lock(&mutex_);
    delay_ = delay;
  }
  void SetDown(std::set<int> shards) {
    absl::MutexLock lock(&mutex_);
    down_ = std::move(shards);
  }
  void SetMissing(std::set<int64_t> indices) {
    absl::MutexLock lock(&mutex_);
    missing_ = std::move(indices);
  }
  void SetDamaged(std::set<int64_t> indices) {
    absl::MutexLock lock(&mutex_);
    damaged_ = std::move(indices);
  }
  void SetChanged(std::map<int64_t, store::v1::Triple> triples) {
    absl::MutexLock lock(&mutex_);
    changed_ = std::move(triples);
  }
  std::vector<int64_t> snapshots_asked() const {
    absl::MutexLock lock(&mutex_);
    return snapshots_asked_;
  }
  int64_t reads() const {
    absl::MutexLock lock(&mutex_);
    return reads_;
  }

 private:
  const common::v1::DatasetRecipe recipe_;
  mutable absl::Mutex mutex_;
  std::vector<dataset::IndexSet> sealed_ ABSL_GUARDED_BY(mutex_);
  absl::Duration delay_ ABSL_GUARDED_BY(mutex_) = absl::ZeroDuration();
  std::set<int> down_ ABSL_GUARDED_BY(mutex_);
  std::set<int64_t> missing_ ABSL_GUARDED_BY(mutex_);
  std::set<int64_t> damaged_ ABSL_GUARDED_BY(mutex_);
  std::map<int64_t, store::v1::Triple> changed_ ABSL_GUARDED_BY(mutex_);
  std::vector<int64_t> snapshots_asked_ ABSL_GUARDED_BY(mutex_);
  int64_t reads_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace d2g::rank
