#include "services/dataset/triple_check.h"

#include "absl/strings/str_cat.h"
#include "services/common/status_macros.h"
#include "services/dataset/latent_codec.h"

namespace d2g::dataset {

absl::Status UnpackTriple(const store::v1::Triple& triple, const common::v1::DatasetRecipe& recipe,
                          int64_t index, std::span<const float> z, std::span<float> x) {
  if (triple.index() != index) {
    return absl::DataLossError(
        absl::StrCat("asked for triple ", index, ", got triple ", triple.index()));
  }
  if (const uint64_t sum = LatentChecksum(triple.x()); sum != triple.x_checksum()) {
    return absl::DataLossError(absl::StrCat("triple ", index, ": checksum of x is ", sum,
                                            ", stored is ", triple.x_checksum()));
  }
  if (const uint64_t sum = NoiseChecksum(z); sum != triple.noise_checksum()) {
    return absl::DataLossError(absl::StrCat("triple ", index, ": checksum of the noise is ", sum,
                                            " here, the simulator's was ",
                                            triple.noise_checksum()));
  }
  if (FindNonFinite(triple.x(), recipe.storage_dtype()) >= 0) {
    return absl::DataLossError(absl::StrCat("triple ", index, ": x has NaN or infinity"));
  }
  const absl::Status decoded = DecodeLatent(triple.x(), recipe.storage_dtype(), x);
  if (!decoded.ok()) {
    return absl::DataLossError(absl::StrCat("triple ", index, ": ", decoded.message()));
  }
  return absl::OkStatus();
}

}  // namespace d2g::dataset
