#include "model/files/json_config.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "model/files/error.h"

namespace d2g::model {

using nlohmann::json;

namespace {

// Python's words for non-finite numbers.
constexpr std::string_view kNonFinite[] = {"-Infinity", "Infinity", "NaN"};

// Deeper than any configuration, and shallow enough to build and print.
constexpr int kMaxJsonDepth = 64;
constexpr uint64_t kMaxJsonBytes = uint64_t{16} << 20;

// Calls visit(position) for every character outside of strings; it returns how many to go on by.
template <typename Visit>
void OutsideStrings(const std::string& text, const Visit& visit) {
  bool in_string = false;
  for (size_t i = 0; i < text.size();) {
    if (in_string) {
      if (text[i] == '"') in_string = false;
      i += text[i] == '\\' ? 2 : 1;
    } else if (text[i] == '"') {
      in_string = true;
      ++i;
    } else {
      i += visit(i);
    }
  }
}

// Replaces the words by null, outside of strings.
std::string ReplaceNonFinite(const std::string& text) {
  std::string out;
  size_t copied = 0;
  OutsideStrings(text, [&](size_t i) -> size_t {
    for (const std::string_view word : kNonFinite) {
      if (text.compare(i, word.size(), word) == 0) {
        out.append(text, copied, i - copied).append("null");
        copied = i + word.size();
        return word.size();
      }
    }
    return 1;
  });
  return out.append(text, copied);
}

bool IsInt64(const json& value) {
  return value.is_number_unsigned() ? value.get<uint64_t>() <= INT64_MAX
                                    : value.is_number_integer();
}

int Depth(const std::string& text) {
  int depth = 0, deepest = 0;
  OutsideStrings(text, [&](size_t i) -> size_t {
    if (text[i] == '[' || text[i] == '{') deepest = std::max(deepest, ++depth);
    if (text[i] == ']' || text[i] == '}') --depth;
    return 1;
  });
  return deepest;
}

}  // namespace

json ParseJson(const std::string& text, const std::string& source) {
  if (text.size() > kMaxJsonBytes) {
    Fail(source, ": ", text.size(), " bytes of JSON are over the limit of ", kMaxJsonBytes);
  }
  if (text.starts_with("version https://git-lfs")) {
    Fail(source, ": is a Git LFS pointer, not the file itself (git lfs pull fetches it)");
  }
  if (Depth(text) > kMaxJsonDepth) {
    Fail(source, ": JSON is nested deeper than the limit of ", kMaxJsonDepth);
  }
  try {
    return json::parse(ReplaceNonFinite(text));
  } catch (const json::exception& error) {
    Fail(source, ": not valid JSON: ", Printable(JsonProblem(error)));
  }
}

std::string JsonProblem(const json::exception& error) {
  const std::string_view text = error.what();
  const size_t end = text.starts_with("[json.exception.") ? text.find("] ") : text.npos;
  return std::string(end == text.npos ? text : text.substr(end + 2));
}

json ReadJsonFile(const std::string& path) {
  return ParseJson(ReadFileToString(path, kMaxJsonBytes), path);
}

json WithoutDefaults(json options) {
  const auto defaulted = options.is_object() ? options.find("_use_default_values") : options.end();
  if (defaulted == options.end()) return options;
  const json names = *defaulted;
  for (const json& name : names) {
    if (name.is_string()) options.erase(name.get<std::string>());
  }
  return options;
}

JsonConfig::JsonConfig(json value, std::string source)
    : json_(std::move(value)), source_(std::move(source)) {
  if (!json_.is_object()) Fail(source_, ": not a JSON object");
}

const json& JsonConfig::Get(const char* key) const {
  static const json null;
  const auto it = json_.find(key);
  return it == json_.end() ? null : *it;
}

bool JsonConfig::IsNull(const char* key) const {
  const auto it = json_.find(key);
  return it != json_.end() && it->is_null();
}

void JsonConfig::FailAt(const char* key, const std::string& what) const {
  Fail(source_, ": option \"", key, "\" is ", Printable(Get(key).dump()), ": ", what);
}

int64_t JsonConfig::Int(const char* key, int64_t fallback) const {
  const json& value = Get(key);
  if (value.is_null()) return fallback;
  if (value.is_number_float()) {
    const double number = value.get<double>();
    if (number == std::floor(number) && std::abs(number) < 1e15) return std::llround(number);
  }
  if (!IsInt64(value)) FailAt(key, "must be an integer");
  return value.get<int64_t>();
}

int64_t JsonConfig::IntAtLeast(const char* key, int64_t fallback, int64_t lower) const {
  const int64_t value = Int(key, fallback);
  if (value < lower) FailAt(key, "must be at least " + std::to_string(lower));
  return value;
}

int64_t JsonConfig::IntBetween(const char* key, int64_t fallback, int64_t lower,
                               int64_t upper) const {
  const int64_t value = Int(key, fallback);
  if (value < lower || value > upper) {
    FailAt(key, "must be in [" + std::to_string(lower) + ", " + std::to_string(upper) + "]");
  }
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
  if (IsInt64(value)) return std::vector<int64_t>(count, value.get<int64_t>());
  if (!value.is_array()) FailAt(key, "must be an integer or a list of integers");
  std::vector<int64_t> numbers;
  for (const json& item : value) {
    if (!IsInt64(item)) FailAt(key, "must be an integer or a list of integers");
    numbers.push_back(item.get<int64_t>());
  }
  if (count != 0 && numbers.size() != count) {
    FailAt(key, "needs " + std::to_string(count) + " entries, one for each level");
  }
  return numbers;
}

std::vector<double> JsonConfig::Doubles(const char* key,
                                        const std::vector<double>& fallback) const {
  const json& value = Get(key);
  if (value.is_null()) return fallback;
  if (!value.is_array()) FailAt(key, "must be a list of numbers");
  std::vector<double> numbers;
  for (const json& item : value) {
    if (!item.is_number()) FailAt(key, "must be a list of numbers");
    numbers.push_back(item.get<double>());
  }
  return numbers;
}

std::vector<int64_t> JsonConfig::Widths(const char* key,
                                        const std::vector<int64_t>& fallback) const {
  if (Has(key) && !IsList(key)) FailAt(key, "must be a list of integers");
  std::vector<int64_t> widths = Has(key) ? Ints(key, {}, 0) : fallback;
  if (widths.empty() || widths.size() > kMaxConfigLevels) {
    FailAt(key, "must have 1 to " + std::to_string(kMaxConfigLevels) + " entries");
  }
  for (const int64_t width : widths) {
    if (width < 1 || width > kMaxConfigSize) {
      FailAt(key, "its entries must be in [1, " + std::to_string(kMaxConfigSize) + "]");
    }
  }
  return widths;
}

bool JsonConfig::IsList(const char* key) const { return Get(key).is_array(); }

void JsonConfig::RequireDefault(const char* key, const json& only) const {
  const json& value = Get(key);
  if (value.is_null() || value == only) return;
  FailAt(key, "not supported (only " + only.dump() + " is)");
}

}  // namespace d2g::model
