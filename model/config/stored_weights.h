// What the weight files of a component's folder hold, by their headers.
#pragma once

#include <string>

#include "model/config/parameter_match.h"
#include "model/files/safetensors_header.h"

namespace d2g::model {

struct StoredWeights {
  StoredTensors tensors;
  int64_t elements = 0;
  int64_t bytes = 0;
  std::set<std::string> dtypes;  // "fp32", "fp16", "bf16", "fp64", else the format's own names
};

// Reads the headers of the files of ChooseWeightFiles, no weights. Throws as that does and as
// ReadSafetensorsHeader does, and Error if a shard lacks a tensor that the index promises.
StoredWeights ReadStoredWeights(const std::string& folder, const std::string& stem);

// What one file holds.
StoredWeights ReadStoredFile(const std::string& path);

// As --dtype says it, and as the format names others.
std::string DtypeWord(SafetensorsDtype dtype);
bool IsFloating(SafetensorsDtype dtype);

}  // namespace d2g::model
