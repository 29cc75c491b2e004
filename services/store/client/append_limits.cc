#include "services/store/client/append_limits.h"

#include <algorithm>

#include "services/dataset/latent_codec.h"

namespace d2g::store {

int64_t IndicesPerRead(const common::v1::DatasetRecipe& recipe) {
  const int64_t fitting = kMaxReadBytes / std::max<int64_t>(1, dataset::LatentBytes(recipe));
  return std::clamp<int64_t>(fitting, 1, kMaxReadIndices);
}

}  // namespace d2g::store
