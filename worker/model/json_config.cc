#include "worker/model/json_config.h"

#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <sstream>
#include <utility>

#include "worker/model/error.h"

namespace d2g::model {

using nlohmann::json;

namespace {

// Replaces Python's words for non-finite numbers outside of strings by null.
std::string ReplaceNonFinite(const std::string& text) {
  std::string out;
  out.reserve(text.size());
  bool in_string = false;
  for (size_t i = 0; i < text.size();) {
    const char c = text[i];
    if (in_string) {
      out += c;
      if (c == '\\' && i + 1 < text.size()) out += text[++i];
      if (c == '"') in_string = false;
      ++i;
      continue;
    }
    if (c == '"') in_string = true;
    bool replaced = false;
    for (const char* word : {"-Infinity", "Infinity", "NaN"}) {
      const std::string w = word;
      if (text.compare(i, w.size(), w) == 0) {
        out += "null";
        i += w.size();
        replaced = true;
        break;
      }
    }
    if (!replaced) {
      out += c;
      ++i;
    }
  }
  return out;
}

}  // namespace

std::string ReadFileToString(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw IoError(path + ": cannot be opened: " + std::strerror(errno));
  std::ostringstream content;
  content << file.rdbuf();
  if (file.bad()) throw IoError(path + ": cannot be read");
  return content.str();
}

json ParseJson(const std::string& text, const std::string& source) {
  try {
    return json::parse(ReplaceNonFinite(text));
  } catch (const json::exception& error) {
    Fail(source, ": not valid JSON: ", error.what());
  }
}

json ReadJsonFile(const std::string& path) { return ParseJson(ReadFileToString(path), path); }

JsonConfig::JsonConfig(json value, std::string source)
    : json_(std::move(value)), source_(std::move(source)) {
  if (!json_.is_object()) Fail(source_, ": not a JSON object");
}

const json& JsonConfig::Get(const char* key) const {
  static const json kNull;
  const auto it = json_.find(key);
  return it == json_.end() ? kNull : *it;
}

bool JsonConfig::IsNull(const char* key) const {
  const auto it = json_.find(key);
  return it != json_.end() && it->is_null();
}

void JsonConfig::FailAt(const char* key, const std::string& what) const {
  Fail(source_, ": option \"", key, "\" is ", Get(key).dump(), ": ", what);
}

int64_t JsonConfig::Int(const char* key, int64_t fallback) const {
  const json& value = Get(key);
  if (value.is_null()) return fallback;
  if (value.is_number_float()) {
    const double number = value.get<double>();
    if (number == std::floor(number) && std::abs(number) < 1e15) return std::llround(number);
  }
  if (!value.is_number_integer()) FailAt(key, "must be an integer");
  return value.get<int64_t>();
}

int64_t JsonConfig::IntAtLeast(const char* key, int64_t fallback, int64_t lower) const {
  const int64_t value = Int(key, fallback);
  if (value < lower) FailAt(key, "must be at least " + std::to_string(lower));
  return value;
}

double JsonConfig::Double(const char* key, double fallback) const {
  const json& value = Get(key);
  if (value.is_null()) return fallback;
  if (!value.is_number()) FailAt(key, "must be a number");
  return value.get<double>();
}

bool JsonConfig::Bool(const char* key, bool fallback) const {
  const json& value = Get(key);
  if (value.is_null()) return fallback;
  if (!value.is_boolean()) FailAt(key, "must be true or false");
  return value.get<bool>();
}

std::string JsonConfig::String(const char* key, const std::string& fallback) const {
  const json& value = Get(key);
  if (value.is_null()) return fallback;
  if (!value.is_string()) FailAt(key, "must be a string");
  return value.get<std::string>();
}

std::vector<std::string> JsonConfig::Strings(const char* key,
                                             const std::vector<std::string>& fallback) const {
  const json& value = Get(key);
  if (value.is_null()) return fallback;
  if (!value.is_array()) FailAt(key, "must be a list of strings");
  std::vector<std::string> strings;
  for (const json& item : value) {
    if (!item.is_string()) FailAt(key, "must be a list of strings");
    strings.push_back(item.get<std::string>());
  }
  return strings;
}

std::vector<int64_t> JsonConfig::Ints(const char* key, const std::vector<int64_t>& fallback,
                                      size_t count) const {
  const json& value = Get(key);
  if (value.is_null()) {
    if (fallback.size() == 1) return std::vector<int64_t>(count, fallback.front());
    if (count != 0 && fallback.size() != count) {
      FailAt(key, "needs " + std::to_string(count) + " entries");
    }
    return fallback;
  }
  if (value.is_number_integer()) return std::vector<int64_t>(count, value.get<int64_t>());
  if (!value.is_array()) FailAt(key, "must be an integer or a list of integers");
  std::vector<int64_t> numbers;
  for (const json& item : value) {
    if (!item.is_number_integer()) FailAt(key, "must be an integer or a list of integers");
    numbers.push_back(item.get<int64_t>());
  }
  if (count != 0 && numbers.size() != count) {
    FailAt(key, "needs " + std::to_string(count) + " entries, one for each level");
  }
  return numbers;
}

bool JsonConfig::IsList(const char* key) const { return Get(key).is_array(); }

void JsonConfig::RequireDefault(const char* key, const json& only) const {
  const json& value = Get(key);
  if (value.is_null() || value == only) return;
  FailAt(key, "not supported (only " + only.dump() + " is)");
}

}  // namespace d2g::model
