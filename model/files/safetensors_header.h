// What a safetensors file says of itself, checked before any of it is believed. Free of
// LibTorch, so that the sanitizers' builds test it.
//
// A file is: 8 bytes little-endian header length, a JSON header (name -> dtype, shape,
// data_offsets; "__metadata__" -> string map), then the tensors' bytes, contiguous and without
// holes. The JSON is read as a stream: memory grows with the tensors that it names, not with its
// nesting or numbers.
// Source: the format's description and reference reader, safetensors 0.5.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace d2g::model {

// Longer headers are refused, as by the reference implementation.
inline constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;
// Many times what the largest published models have.
inline constexpr size_t kMaxSafetensorsTensors = 100'000;
// As many as ATen's iterators take.
inline constexpr size_t kMaxSafetensorsRank = 64;

enum class SafetensorsDtype {
  kF64,
  kF32,
  kF16,
  kBF16,
  kF8E4M3,
  kF8E5M2,
  kI64,
  kI32,
  kI16,
  kI8,
  kU8,
  kBool
};

// The format's name of a dtype, and the bytes of one element.
const char* NameOf(SafetensorsDtype dtype);
uint64_t ElementSize(SafetensorsDtype dtype);
std::optional<SafetensorsDtype> FindSafetensorsDtype(std::string_view name);

struct SafetensorsEntry {
  std::string name;
  SafetensorsDtype dtype = SafetensorsDtype::kF32;
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // in the data after the header
  uint64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // by offset; they tile the data without overlap or hole
  std::map<std::string, std::string> metadata;
  uint64_t data_begin = 0;  // in the file
};

// `file` is the whole file. Throws Error naming `path` for: a header longer than the file or than
// kMaxSafetensorsHeader, or not JSON of the form above; more tensors or dimensions than the limits;
// a name that comes twice or holds control characters; a dtype not listed above; a shape whose
// bytes overflow or are not those of its range; a range that overlaps another, leaves a hole or
// ends beyond the file (with the expected and the actual size).
SafetensorsHeader ParseSafetensorsHeader(std::string_view file, const std::string& path);

// The same of a file on disk, of which no more than the header is read. Throws IoError too.
SafetensorsHeader ReadSafetensorsHeader(const std::string& path);

}  // namespace d2g::model
