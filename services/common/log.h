// Logging: one line per event on stderr, a constant message plus fields.
//
//   LogInfo("sealed a range", {{"dataset", name}, {"begin", range.begin()}});
//
// Plain on a terminal ("12:00:01.123 I sealed a range dataset=... begin=0"), one JSON object a line
// with --log-format json. Thread-safe.
#pragma once

#include <concepts>
#include <initializer_list>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace d2g::common {

enum class LogLevel { kDebug, kInfo, kWarn, kError };

struct LogOptions {
  // "plain" or "json".
  std::string format = "plain";
  // "debug", "info", "warn" or "error": the least level that is written.
  std::string level = "info";
  // Name of the program, in every line ("d2g-store"); empty leaves it out.
  std::string component;
};

// A field's value: a number or bool (bare in JSON) or text (quoted).
class LogValue {
 public:
  LogValue(absl::string_view text) : text_(text), quoted_(true) {}                       // NOLINT
  LogValue(std::string_view text) : text_(text), quoted_(true) {}                        // NOLINT
  LogValue(const std::string& text) : text_(text), quoted_(true) {}                      // NOLINT
  LogValue(const char* text) : text_(text), quoted_(true) {}                             // NOLINT
  LogValue(const absl::Status& status) : text_(status.ToString()), quoted_(true) {}      // NOLINT
  LogValue(absl::Duration value) : text_(absl::FormatDuration(value)), quoted_(true) {}  // NOLINT
  LogValue(bool value) : text_(value ? "true" : "false"), quoted_(false) {}              // NOLINT
  template <typename T>
  requires(std::integral<T> || std::floating_point<T>) LogValue(T value)
      : text_(absl::StrCat(value)), quoted_(!IsFinite(value)) {}  // NOLINT

  const std::string& text() const { return text_; }
  bool quoted() const { return quoted_; }

 private:
  template <typename T>
  static bool IsFinite(T value) {
    return value - value == T(0);
  }
  std::string text_;
  bool quoted_;
};

struct LogField {
  absl::string_view key;
  LogValue value;
};

using LogFields = std::initializer_list<LogField>;

// Sets format, level and component; INVALID_ARGUMENT names an unknown format or level. Before the
// first call lines are plain, from level info.
absl::Status InitLog(const LogOptions& options);

// Writes one line when `level` is enabled. `message` is a constant; what varies goes into fields.
void Log(LogLevel level, absl::string_view message, LogFields fields);

inline void LogDebug(absl::string_view message, LogFields fields = {}) {
  Log(LogLevel::kDebug, message, fields);
}
inline void LogInfo(absl::string_view message, LogFields fields = {}) {
  Log(LogLevel::kInfo, message, fields);
}
inline void LogWarn(absl::string_view message, LogFields fields = {}) {
  Log(LogLevel::kWarn, message, fields);
}
inline void LogError(absl::string_view message, LogFields fields = {}) {
  Log(LogLevel::kError, message, fields);
}

}  // namespace d2g::common
