// Triples of a batch of indices: the numerical part of simulating, without any network.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "d2g/common/v1/recipe.pb.h"
#include "d2g/store/v1/triple_service.pb.h"
#include "worker/simulate/device_span.h"
#include "worker/simulate/simulate_metrics.h"
#include "worker/simulate/teacher_cache.h"

namespace d2g::simulate {

// Triples simulated together at most.
inline constexpr int kMaxBatchSize = 4096;

// Checks what a worker of this build cannot do: the solver's kind, steps and spacing, and a latent
// shape other than the teacher's. INVALID_ARGUMENT names field, value and limit.
absl::Status CheckRecipe(const common::v1::DatasetRecipe& recipe, const Teacher& teacher);

// Triples without their checks and encoding. On a GPU the work is given to the device but may not
// be done.
struct SolvedBatch {
  std::vector<int64_t> indices;
  std::vector<int64_t> prompt_indices;
  at::Tensor noise;    // [B, C, H, W] fp32 on the CPU
  at::Tensor latents;  // the same on the device
  DeviceSpan span;     // of prompts and solver
};

// Solves the triples of `indices` together. Triple i is a function of the recipe and i; the other
// indices of the batch change it by float rounding only. `prompts` is the dataset's list. Calls
// `on_step` after each solver step, which ends the solving with CANCELLED by returning false.
absl::StatusOr<SolvedBatch> SolveBatch(const common::v1::DatasetRecipe& recipe,
                                       const Teacher& teacher,
                                       const std::vector<std::string>& prompts,
                                       const std::vector<int64_t>& indices,
                                       const std::function<bool()>& on_step,
                                       SimulateMetrics* metrics);

// Waits until the device has solved the batch and copies its latents to the CPU. On a GPU this goes
// on beside the work that the device has been given since. Returns the time that the batch took.
// Status as CatchTorch's.
absl::StatusOr<absl::Duration> Fetch(SolvedBatch& batch);

// Makes triples of a fetched batch. A latent with a number that is not finite, or not in the
// storage dtype, is INVALID_ARGUMENT naming the index: trying again would give the same.
absl::StatusOr<std::vector<store::v1::Triple>> MakeTriples(const common::v1::DatasetRecipe& recipe,
                                                           const SolvedBatch& batch);

}  // namespace d2g::simulate
