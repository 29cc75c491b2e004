// What each training step reads.
//
// Global batch k of epoch e is a pure function of (snapshot, seed, e, k): every rank computes the
// same batch and takes its slice, so any number of ranks sees the same samples with the same
// negatives and augmentations, and a restarted rank needs nothing but (epoch, k) to go on.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "services/dataset/index_set.h"
#include "services/dataset/permutation.h"

namespace d2g::dataset {

// One sample of a global batch.
struct PlanItem {
  // The triple.
  int64_t index = 0;
  // Position in the same global batch of the triple whose prompt serves as this one's mismatched
  // text; its prompt differs. Over the batch these form a derangement. -1: none, because more than
  // half of the batch shares this item's prompt.
  int32_t mismatch_position = -1;
  // Position of the triple whose noise serves as mismatched noise: a derangement too. -1 only in a
  // batch of one.
  int32_t noise_mismatch_position = -1;
  // Whether the gradient penalty is taken on this sample: one of each r1_every-th batch.
  // Reserved: no step takes one yet.
  bool r1 = false;
  // Keys everything drawn for this sample's augmentation in this epoch. Reserved: none is drawn
  // yet.
  uint64_t augmentation_seed = 0;

  friend bool operator==(const PlanItem&, const PlanItem&) = default;
};

struct EpochPlanOptions {
  // The epoch's snapshot.
  IndexSet sealed;
  // As in the dataset's recipe; held-out indices are skipped.
  int64_t holdout_every = 0;
  // The training's seed, not the dataset's.
  uint64_t seed = 0;
  int64_t epoch = 0;
  // Samples a step over all ranks, 1 to kMaxGlobalBatch.
  int64_t global_batch = 1;
  // A number that is equal for two triples exactly when their prompts are. Must be pure.
  std::function<int64_t(int64_t index)> prompt_of;
  // 0: never.
  int64_t r1_every = 0;
};

inline constexpr int64_t kMaxGlobalBatch = 1 << 20;

// Immutable and thread-safe if prompt_of is.
class EpochPlan {
 public:
  // Throws std::invalid_argument naming the value and its limit.
  explicit EpochPlan(EpochPlanOptions options);

  // Batches in the epoch; the tail shorter than a batch is dropped, so each index is visited at
  // most once and fewer than a batch are not.
  int64_t num_batches() const { return training_count_ / options_.global_batch; }
  // Training indices in the snapshot.
  int64_t training_count() const { return training_count_; }

  // Batch k. Throws std::invalid_argument unless 0 <= k < num_batches(). O(B log B).
  std::vector<PlanItem> Batch(int64_t k) const;

  // Just the indices of batch k, in the same order: what a reader prefetches.
  std::vector<int64_t> BatchIndices(int64_t k) const;

 private:
  int64_t IndexAt(int64_t position) const;

  EpochPlanOptions options_;
  // For each range of the snapshot: the training indices in the ranges before it, and those of the
  // whole dataset below it.
  std::vector<int64_t> training_before_;
  std::vector<int64_t> training_below_;
  int64_t training_count_ = 0;
  uint64_t order_key_ = 0;
};

// Rank `rank`'s part of n samples: consecutive, in rank order, sizes differ by at most one. Throws
// std::invalid_argument unless world >= 1, 0 <= rank < world, n >= 0.
Range RankSlice(int64_t world, int64_t rank, int64_t n);

}  // namespace d2g::dataset
