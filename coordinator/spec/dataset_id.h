// The name of a dataset follows from its recipe, so that jobs with the same recipe share it.
#pragma once

#include <string>

#include "d2g/common/v1/recipe.pb.h"

namespace d2g::coordinator {

// The id: the first 16 hex digits of the XXH3-128 (canonical, big-endian form, seed 0) of the
// recipe's bytes. The bytes are protobuf's deterministic binary serialisation of DatasetRecipe: set
// fields in the order of their numbers, defaults left out, no unknown fields. The message must
// therefore never get a map field, and a new field must mean the same as before when it is unset.
std::string DatasetId(const common::v1::DatasetRecipe& recipe);

}  // namespace d2g::coordinator
