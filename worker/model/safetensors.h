// Reading and writing of safetensors files, the only weight format of d2g.
//
// A file is: 8 bytes little-endian header length, a JSON header (name -> dtype, shape,
// data_offsets; "__metadata__" -> string map), then the tensors' bytes, contiguous and without
// holes. The functions throw IoError for a file that cannot be opened, read or written and Error
// for one that is not as it should be; thread-safe (no shared state).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include <ATen/ATen.h>

namespace d2g::model {

// Tensors by name, sorted.
using TensorMap = std::map<std::string, at::Tensor>;

// Headers longer than this are refused, as by the reference implementation.
inline constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;

// Maps the file and returns CPU tensors of the stored dtype (F64, F32, F16, BF16, I64, I32, I16,
// I8, U8, BOOL) that keep the mapping alive. The mapping is private: writing to a tensor never
// reaches the file. Cutting the file while it is mapped is undefined.
//
// Throws Error naming the file for: a header longer than the file, than kMaxSafetensorsHeader or
// not JSON; an unknown dtype; a range that does not fit shape and dtype, overlaps another, leaves a
// hole or ends beyond the file (with the expected and the actual size of the file).
TensorMap ReadSafetensors(const std::string& path);

// The file's "__metadata__"; empty when it has none.
std::map<std::string, std::string> ReadSafetensorsMetadata(const std::string& path);

// Reads folder/stem.safetensors, or every shard that folder/stem.safetensors.index.json names.
// Throws IoError if neither is there, and Error if a shard lacks a tensor that the index promises.
TensorMap ReadSafetensorsFolder(const std::string& folder, const std::string& stem);

// Writes the tensors (any device, contiguous or not) to `path`: beside it first, fsynced, then
// renamed, and the folder fsynced, so that `path` holds the old or the new bytes, never a part.
// Same tensors and metadata give the same bytes (data ordered by element size, then name).
// `progress`, called after each tensor, may throw to stop: nothing is left then.
void WriteSafetensors(const std::string& path, const TensorMap& tensors,
                      const std::map<std::string, std::string>& metadata = {},
                      const std::function<void()>& progress = nullptr);

}  // namespace d2g::model
