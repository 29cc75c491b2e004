#include "services/dataset/holdout.h"

namespace d2g::dataset {

bool IsHeldOut(int64_t index, int64_t holdout_every) {
  return holdout_every > 0 && index % holdout_every == 0;
}

int64_t TrainingCountBelow(int64_t end, int64_t holdout_every) {
  if (holdout_every <= 0) return end;
  return end - (end + holdout_every - 1) / holdout_every;
}

int64_t NthTrainingIndex(int64_t n, int64_t holdout_every) {
  if (holdout_every <= 0) return n;
  return n + n / (holdout_every - 1) + 1;
}

std::vector<int64_t> HeldOutIndices(const IndexSet& sealed, int64_t holdout_every, int64_t limit) {
  std::vector<int64_t> indices;
  if (holdout_every <= 0) return indices;
  for (const auto& [begin, end] : sealed.ranges()) {
    int64_t index = (begin + holdout_every - 1) / holdout_every * holdout_every;
    for (; index < end; index += holdout_every) {
      if (static_cast<int64_t>(indices.size()) >= limit) return indices;
      indices.push_back(index);
    }
  }
  return indices;
}

}  // namespace d2g::dataset
