// From a rank's batch to the tensors that a training step takes.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/distil/train_step.h"
#include "worker/rank/rank_batch.h"
#include "worker/rank/text_cache.h"

namespace d2g::rank {

struct MicroBatchOptions {
  // Samples a micro-batch at most; 0: all of the rank's.
  int64_t micro_batch = 0;
  // C, H, W.
  std::vector<int64_t> latent_shape;
  // The dataset's seed: noise.
  uint64_t dataset_seed = 0;
  // Share of each mismatched kind among D's negatives.
  double mismatch_weight = 0;
  at::Device device = at::kCPU;
};

// Cuts `batch` into micro-batches in order. With `negatives`, D's negatives come along: the kind of
// each by its position in the global batch, another text or noise where the kind asks for it; a
// sample that has no other prompt takes the generated picture instead. Throws what `texts` throws.
std::vector<distil::MicroBatch> MakeMicroBatches(const RankBatch& batch,
                                                 const MicroBatchOptions& options, bool negatives,
                                                 TextCache* texts);

}  // namespace d2g::rank
