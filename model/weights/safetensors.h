// Reading and writing of safetensors files, the only weight format of d2g.
//
// The format is described in safetensors_header.h. The functions throw IoError for a file that
// cannot be opened, read or written and Error for one that is not as it should be; thread-safe (no
// shared state).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include <ATen/ATen.h>

#include "model/files/safetensors_header.h"

namespace d2g::model {

// Tensors by name, sorted.
using TensorMap = std::map<std::string, at::Tensor>;

// Maps the file and returns CPU tensors of the stored dtype (F64, F32, F16, BF16, F8_E4M3, F8_E5M2,
// I64, I32, I16, I8, U8, BOOL) that keep the mapping alive. The mapping is private: writing to a
// tensor never reaches the file. Cutting the file while it is mapped is undefined. The kernel is
// asked to read the file ahead; resident are only the pages that were touched.
//
// Throws Error naming the file for everything that ParseSafetensorsHeader refuses.
TensorMap ReadSafetensors(const std::string& path);

// The format's dtype for one of LibTorch's, where it has one.
std::optional<SafetensorsDtype> SafetensorsDtypeOf(at::ScalarType type);

// Whether the tensor's storage is a mapped file.
bool IsMapped(const at::Tensor& tensor);

// Drops the resident pages behind a tensor (its whole storage) that ReadSafetensors mapped, for
// callers that have copied or converted the values. The tensor stays readable, from the file again.
// Pages that were written to stay, and any other tensor is left alone. Safe while others read the
// tensor.
void ReleasePages(const at::Tensor& tensor);

// The file's "__metadata__"; empty when it has none.
std::map<std::string, std::string> ReadSafetensorsMetadata(const std::string& path);

// Reads the weights `stem` of a folder: the files of ChooseWeightFiles. Throws as that does, and
// Error if a shard lacks a tensor that the index promises.
TensorMap ReadSafetensorsFolder(const std::string& folder, const std::string& stem,
                                const std::string& variant = "");

// Writes the tensors (any device, contiguous or not) to `path`: beside it first, fsynced, then
// renamed, and the folder fsynced, so that `path` holds the old or the new bytes, never a part.
// Same tensors and metadata give the same bytes (data ordered by element size, then name).
// `progress`, called after each tensor, may throw to stop: nothing is left then.
void WriteSafetensors(const std::string& path, const TensorMap& tensors,
                      const std::map<std::string, std::string>& metadata = {},
                      const std::function<void()>& progress = nullptr);

}  // namespace d2g::model
