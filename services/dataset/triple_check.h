// Checks a triple as it came from the store.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "d2g/common/v1/recipe.pb.h"
#include "d2g/store/v1/triple_service.pb.h"

namespace d2g::dataset {

// Decodes x into fp32 (C*H*W numbers). DATA_LOSS says what does not fit: the index, the size of x,
// the checksum of x, or that of the noise `z` as this machine makes it. x is then undefined.
absl::Status UnpackTriple(const store::v1::Triple& triple, const common::v1::DatasetRecipe& recipe,
                          int64_t index, std::span<const float> z, std::span<float> x);

}  // namespace d2g::dataset
