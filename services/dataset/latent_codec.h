// Latents between the numbers that programs compute with and the bytes that triples hold. No Torch.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "d2g/common/v1/recipe.pb.h"
#include "d2g/store/v1/triple_service.pb.h"

namespace d2g::dataset {

// Bytes of one number; 0 for an unknown dtype.
int64_t BytesOf(common::v1::DType dtype);

// Numbers of one latent, channels * height * width.
int64_t LatentElements(const common::v1::DatasetRecipe& recipe);

// Bytes of one stored latent.
int64_t LatentBytes(const common::v1::DatasetRecipe& recipe);

// float32 numbers as little-endian bytes of `dtype`, rounded to nearest, ties to even; values
// beyond fp16's largest (65504) become infinity. INVALID_ARGUMENT for an unknown dtype.
absl::StatusOr<std::string> EncodeLatent(std::span<const float> values, common::v1::DType dtype);

// The other way, exact. INVALID_ARGUMENT names sizes when bytes.size() is not out.size() numbers.
absl::Status DecodeLatent(absl::string_view bytes, common::v1::DType dtype, std::span<float> out);

// Position of the first NaN or infinity; -1 when all numbers are finite.
int64_t FindNonFinite(absl::string_view bytes, common::v1::DType dtype);

// XXH3-64 of a latent's bytes: Triple.x_checksum.
uint64_t LatentChecksum(absl::string_view bytes);

// XXH3-64 of the noise's fp32 little-endian bytes: Triple.noise_checksum.
uint64_t NoiseChecksum(std::span<const float> noise);

// A triple ready to append: encodes x, fills both checksums.
absl::StatusOr<store::v1::Triple> MakeTriple(int64_t index, int64_t prompt_index,
                                             std::span<const float> x, std::span<const float> noise,
                                             common::v1::DType dtype);

}  // namespace d2g::dataset
