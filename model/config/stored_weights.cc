#include "model/config/stored_weights.h"

#include "model/files/error.h"
#include "model/files/weight_files.h"

namespace d2g::model {

namespace {

void Add(const SafetensorsEntry& entry, StoredWeights* weights) {
  const uint64_t bytes = entry.end - entry.begin;
  weights->elements += static_cast<int64_t>(bytes / ElementSize(entry.dtype));
  weights->bytes += static_cast<int64_t>(bytes);
  weights->dtypes.insert(DtypeWord(entry.dtype));
  weights->tensors[entry.name] = {entry.shape, DtypeWord(entry.dtype), IsFloating(entry.dtype)};
}

}  // namespace

StoredWeights ReadStoredWeights(const std::string& folder, const std::string& stem) {
  const WeightFiles files = ChooseWeightFiles(folder, stem);
  StoredWeights weights;
  for (const auto& [file, names] : files.shards) {
    size_t found = 0;
    const SafetensorsHeader header = ReadSafetensorsHeader(folder + "/" + file);
    for (const SafetensorsEntry& entry : header.entries) {
      if (!files.index.empty() && !names.contains(entry.name)) continue;
      Add(entry, &weights);
      ++found;
    }
    if (files.index.empty() || found == names.size()) continue;
    for (const std::string& name : names) {
      if (weights.tensors.contains(name)) continue;
      Fail(folder, "/", file, ": lacks tensor ", Printable(name), " of the index");
    }
  }
  return weights;
}

StoredWeights ReadStoredFile(const std::string& path) {
  StoredWeights weights;
  for (const SafetensorsEntry& entry : ReadSafetensorsHeader(path).entries) Add(entry, &weights);
  return weights;
}

std::string DtypeWord(SafetensorsDtype dtype) {
  switch (dtype) {
    case SafetensorsDtype::kF64:
      return "fp64";
    case SafetensorsDtype::kF32:
      return "fp32";
    case SafetensorsDtype::kF16:
      return "fp16";
    case SafetensorsDtype::kBF16:
      return "bf16";
    default:
      return NameOf(dtype);
  }
}

bool IsFloating(SafetensorsDtype dtype) {
  switch (dtype) {
    case SafetensorsDtype::kF64:
    case SafetensorsDtype::kF32:
    case SafetensorsDtype::kF16:
    case SafetensorsDtype::kBF16:
    case SafetensorsDtype::kF8E4M3:
    case SafetensorsDtype::kF8E5M2:
      return true;
    default:
      return false;
  }
}

}  // namespace d2g::model
