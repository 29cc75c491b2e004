#include "model/config/unet_options.h"

#include <algorithm>
#include <cctype>
#include <utility>

namespace d2g::model {

namespace {

const std::string kUNetResPrefix = "UNetRes";  // diffusers drops it from block types

}  // namespace

int64_t IntIn(const JsonConfig& json, const char* key, int64_t fallback, int64_t lower,
              int64_t upper) {
  const int64_t value = json.IntAtLeast(key, fallback, lower);
  if (value > upper) json.FailAt(key, "must be at most " + std::to_string(upper));
  return value;
}

int64_t OptionalInt(const JsonConfig& json, const char* key, int64_t upper) {
  return json.Has(key) ? IntIn(json, key, 0, 1, upper) : 0;
}

Activation ReadActivation(const JsonConfig& json, const char* key) {
  std::string name = json.String(key, "silu");
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "mish") return Activation::kMish;
  if (name == "gelu") return Activation::kGelu;
  if (name == "relu") return Activation::kRelu;
  json.FailAt(key, "not supported (only silu, swish, mish, gelu and relu are)");
}

std::optional<Activation> OptionalActivation(const JsonConfig& json, const char* key) {
  if (!json.Has(key)) return std::nullopt;
  return ReadActivation(json, key);
}

std::vector<std::string> BlockTypes(const JsonConfig& json, const char* key,
                                    const std::vector<std::string>& fallback, size_t levels,
                                    const std::string& plain) {
  std::vector<std::string> types = json.Strings(key, fallback);
  if (types.size() != levels) {
    json.FailAt(key,
                "needs as many entries as block_out_channels (" + std::to_string(levels) + ")");
  }
  const std::string attending = "CrossAttn" + plain;
  for (std::string& type : types) {
    const std::string name =
        type.starts_with(kUNetResPrefix) ? type.substr(kUNetResPrefix.size()) : type;
    if (name != plain && name != attending) {
      json.FailAt(key, "block type \"" + type + "\" is not supported (only " + plain + " and " +
                           attending + " are)");
    }
    type = name;
  }
  return types;
}

void RequireIn(const JsonConfig& json, const char* key, const std::vector<int64_t>& values,
               int64_t lower, int64_t upper) {
  for (const int64_t value : values) {
    if (value < lower || value > upper) {
      json.FailAt(key, "must be in " + std::to_string(lower) + " to " + std::to_string(upper));
    }
  }
}

std::vector<int64_t> PerLevel(const JsonConfig& json, const char* key, int64_t fallback,
                              const std::vector<bool>& read, int64_t upper) {
  const nlohmann::json& value = json.Get(key);
  if (!value.is_array()) {
    return std::vector<int64_t>(read.size(), IntIn(json, key, fallback, 1, upper));
  }
  if (value.size() != read.size()) {
    json.FailAt(key, "needs " + std::to_string(read.size()) + " entries, one for each level");
  }
  std::vector<int64_t> numbers;
  for (size_t level = 0; level < read.size(); ++level) {
    const nlohmann::json& item = value[level];
    const bool absent = item.is_null() && !read[level];
    if (!absent && !item.is_number_integer()) {
      json.FailAt(key, "must be an integer or a list of integers");
    }
    numbers.push_back(absent ? 0 : item.get<int64_t>());
    if (!absent && (numbers.back() < 1 || numbers.back() > upper)) {
      json.FailAt(key, "must be in 1 to " + std::to_string(upper));
    }
  }
  return numbers;
}

std::vector<Depths> ReadDepths(const JsonConfig& json, const char* key, size_t levels,
                               bool* nested) {
  const nlohmann::json& value = json.Get(key);
  if (!value.is_array()) {
    return std::vector(levels, Depths{IntIn(json, key, 1, 0, kMaxLayers)});
  }
  if (value.size() != levels) {
    json.FailAt(key, "needs " + std::to_string(levels) + " entries, one for each level");
  }
  std::vector<Depths> blocks;
  for (const nlohmann::json& item : value) {
    Depths depths;
    const nlohmann::json list = item.is_array() ? item : nlohmann::json::array({item});
    *nested = *nested || item.is_array();
    for (const nlohmann::json& depth : list) {
      if (!depth.is_number_integer()) {
        json.FailAt(key, "must be an integer, or a list of integers and lists of integers");
      }
      depths.push_back(depth.get<int64_t>());
    }
    RequireIn(json, key, depths, 0, kMaxLayers);
    blocks.push_back(std::move(depths));
  }
  return blocks;
}

void RequireDepths(const JsonConfig& json, const char* key, const nlohmann::json& block,
                   Depths& depths, int64_t layers) {
  if (!block.is_array()) return;
  if (static_cast<int64_t>(depths.size()) < layers) {
    json.FailAt(key, "needs a depth for each of a block's " + std::to_string(layers) + " resnets");
  }
  depths.resize(static_cast<size_t>(layers));
}

}  // namespace d2g::model
