// The names of a checkpoint folder's files. docs/formats.md says what is in them; the manifest's
// name is in services/common/file_manifest.h.
#pragma once

#include <string>

namespace d2g::common {

// What is not a tensor.
inline constexpr char kCheckpointStateFile[] = "state.json";

// Tensors are kept by what they are of, a file each.
inline constexpr char kGeneratorTensors[] = "generator";
inline constexpr char kEmaTensors[] = "ema";
inline constexpr char kGeneratorOptimizerTensors[] = "optimizer_g";
inline constexpr char kDiscriminatorTensors[] = "discriminator";
inline constexpr char kDiscriminatorOptimizerTensors[] = "optimizer_d";

// And its ending.
inline constexpr char kTensorFileSuffix[] = ".safetensors";
inline std::string TensorFile(const std::string& of) { return of + kTensorFileSuffix; }

}  // namespace d2g::common
