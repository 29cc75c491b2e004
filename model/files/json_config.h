// Typed access to a component's config file, with errors that name file, option and value.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "model/files/input_file.h"

namespace d2g::model {

// Reads and parses a JSON file. The words NaN, Infinity and -Infinity, which Python writes and JSON
// does not have, are read as null. Throws IoError when the file cannot be read and Error when it is
// not JSON, over 16 MiB or nested deeper than 64, both naming it.
nlohmann::json ReadJsonFile(const std::string& path);
nlohmann::json ParseJson(const std::string& text, const std::string& source);

// The options of a diffusers file without those that "_use_default_values" lists: whoever wrote the
// file was given no value for them, and diffusers takes its own defaults in place of what stands
// there. Anything but an object is returned as it is.
nlohmann::json WithoutDefaults(nlohmann::json options);

// What is wrong with a document, without the JSON library's own name for it.
std::string JsonProblem(const nlohmann::json::exception& error);

// What no real network exceeds: an option beyond them is a damaged file, and is refused before
// memory is asked for.
inline constexpr int64_t kMaxConfigSize = 1 << 20;  // channels, sides
inline constexpr int64_t kMaxConfigLayers = 1000;   // repetitions of a block
inline constexpr size_t kMaxConfigLevels = 16;

// The options of one file. A missing key gives the default; null does too.
class JsonConfig {
 public:
  // Throws Error unless `json` is an object.
  JsonConfig(nlohmann::json json, std::string source);

  int64_t Int(const char* key, int64_t fallback) const;
  double Double(const char* key, double fallback) const;
  bool Bool(const char* key, bool fallback) const;
  std::string String(const char* key, const std::string& fallback) const;
  std::vector<std::string> Strings(const char* key, const std::vector<std::string>& fallback) const;
  // A number or a list; a number is repeated `count` times, a list must have `count` entries.
  std::vector<int64_t> Ints(const char* key, const std::vector<int64_t>& fallback,
                            size_t count) const;
  // A list of numbers.
  std::vector<double> Doubles(const char* key, const std::vector<double>& fallback) const;
  // The channels of each level of a network: a list of 1 to kMaxConfigLevels integers in
  // [1, kMaxConfigSize].
  std::vector<int64_t> Widths(const char* key, const std::vector<int64_t>& fallback) const;
  bool IsList(const char* key) const;
  // The value, or null.
  const nlohmann::json& Get(const char* key) const;
  // Present and null. Where null has a meaning of its own, this tells it from a missing key.
  bool IsNull(const char* key) const;
  // Present and not null.
  bool Has(const char* key) const { return !Get(key).is_null(); }

  // Throws Error unless the key is missing, null or equal to `only`.
  void RequireDefault(const char* key, const nlohmann::json& only) const;
  // Throws Error unless lower <= value.
  int64_t IntAtLeast(const char* key, int64_t fallback, int64_t lower) const;

  // Throws Error unless lower <= value <= upper.
  int64_t IntBetween(const char* key, int64_t fallback, int64_t lower, int64_t upper) const;

  [[noreturn]] void FailAt(const char* key, const std::string& what) const;
  const std::string& source() const { return source_; }

 private:
  nlohmann::json json_;
  std::string source_;
};

}  // namespace d2g::model
