// From a rank's batch to the tensors that a training step takes.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "d2g/common/v1/recipe.pb.h"
#include "d2g/common/v1/train_spec.pb.h"
#include "worker/distil/micro_batch.h"
#include "worker/rank/rank_batch.h"
#include "worker/rank/text_cache.h"

namespace d2g::rank {

// What micro-batches are cut and made by. The specs are normal.
struct MicroBatchOptions {
  // micro_batch and gan.mismatch_weight are read.
  common::v1::TrainSpec train;
  // The latent's shape and the noise's seed are.
  common::v1::DatasetRecipe recipe;
  at::Device device = at::kCPU;
};

// Cuts `batch` into micro-batches in order. With `negatives`, D's negatives come along: the kind of
// each by its position in the global batch, another text or noise where the kind asks for it; a
// sample that has no other prompt takes the generated picture instead. Throws what `texts` throws.
std::vector<distil::MicroBatch> MakeMicroBatches(const RankBatch& batch,
                                                 const MicroBatchOptions& options, bool negatives,
                                                 TextCache* texts);

}  // namespace d2g::rank
