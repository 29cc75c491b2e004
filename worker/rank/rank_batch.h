// What one rank trains on in one step.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace d2g::rank {

// Place in the order of training data: batch `batch` of epoch `epoch`.
struct DataCursor {
  int64_t epoch = 0;
  int64_t batch = 0;

  friend bool operator==(const DataCursor&, const DataCursor&) = default;
};

// A triple that could not be used, and why.
struct SkippedTriple {
  int64_t index = 0;
  std::string reason;
};

// One triple of the plan.
struct RankSample {
  int64_t index = 0;
  // Position of its prompt in the prompt list.
  int64_t prompt = 0;
  // Prompt that serves as mismatched text; -1: none.
  int64_t other_prompt = -1;
  // Triple whose noise serves as mismatched noise; -1: none.
  int64_t other_noise_index = -1;
  // Takes the gradient penalty. Reserved: no step has one yet.
  bool r1 = false;
  // Keys what is drawn for its augmentation. Reserved: no step augments yet.
  uint64_t augmentation_seed = 0;
};

// A rank's consecutive part of a global batch. A plain value.
struct RankBatch {
  DataCursor cursor;
  // What comes after it: where training goes on once this batch is done.
  DataCursor next;
  // Position in the global batch of samples[0].
  int64_t first_position = 0;
  std::vector<RankSample> samples;
  // fp32, samples.size() times C*H*W each: noise and the teacher's solution. x is all zeros for a
  // sample of weight 0.
  std::vector<float> z;
  std::vector<float> x;
  // Per sample: 1, or 0 for one that is skipped.
  std::vector<float> weight;
  std::vector<SkippedTriple> skipped;
};

}  // namespace d2g::rank
