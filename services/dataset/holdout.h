// Held-out triples: index % holdout_every == 0. Never trained on; paired evaluation reads them.
// holdout_every 0 holds out none, 1 all. All functions are pure and thread-safe.
#pragma once

#include <cstdint>
#include <vector>

#include "services/dataset/index_set.h"

namespace d2g::dataset {

bool IsHeldOut(int64_t index, int64_t holdout_every);

// How many indices of [0, end) are not held out. REQUIRES: end >= 0.
int64_t TrainingCountBelow(int64_t end, int64_t holdout_every);

// The n-th index of 0, 1, 2, ... that is not held out. REQUIRES: n >= 0, holdout_every != 1.
int64_t NthTrainingIndex(int64_t n, int64_t holdout_every);

// The first `limit` held-out indices of `sealed`, ascending; fewer when there are fewer.
std::vector<int64_t> HeldOutIndices(const IndexSet& sealed, int64_t holdout_every, int64_t limit);

}  // namespace d2g::dataset
