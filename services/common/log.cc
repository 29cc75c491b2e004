#include "services/common/log.h"

#include <atomic>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_replace.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "services/common/utf8.h"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"

namespace d2g::common {
namespace {

// The name as it stays for the life of the process: a thread may be reading it when another is set.
const std::string* Kept(const std::string& component) {
  static absl::Mutex mutex(absl::kConstInit);
  static auto* const names = new std::set<std::string>();
  absl::MutexLock lock(&mutex);
  return &*names->insert(component).first;
}

struct State {
  std::atomic<bool> json{false};
  std::atomic<LogLevel> level{LogLevel::kInfo};
  std::atomic<const std::string*> component{Kept("")};
  spdlog::logger logger{"d2g", std::make_shared<spdlog::sinks::stderr_sink_mt>()};

  State() {
    logger.set_pattern("%v");
    logger.set_level(spdlog::level::trace);
    logger.flush_on(spdlog::level::trace);
  }
};

State& GlobalState() {
  static State* const state = new State();
  return *state;
}

// Also what a terminal would obey, so that a line stays one line wherever it is read.
void AppendJsonString(absl::string_view text, std::string* out) {
  absl::StrAppend(out, "\"",
                  WithoutControls(absl::StrReplaceAll(text, {{"\"", "\\\""}, {"\\", "\\\\"}})),
                  "\"");
}

const char* LevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarn:
      return "warn";
    case LogLevel::kError:
      return "error";
  }
  return "error";
}

std::string JsonLine(LogLevel level, absl::string_view message, absl::string_view component,
                     LogFields fields) {
  std::string line = absl::StrCat(
      R"({"time":")", absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", absl::Now(), absl::UTCTimeZone()),
      R"(","level":")", LevelName(level), R"(","message":)");
  AppendJsonString(message, &line);
  if (!component.empty()) {
    line += R"(,"component":)";
    AppendJsonString(component, &line);
  }
  for (const LogField& field : fields) {
    line.push_back(',');
    AppendJsonString(field.key, &line);
    line.push_back(':');
    if (field.value.quoted()) {
      AppendJsonString(field.value.text(), &line);
    } else {
      line += field.value.text();
    }
  }
  line.push_back('}');
  return line;
}

std::string PlainLine(LogLevel level, absl::string_view message, absl::string_view component,
                      LogFields fields) {
  std::string line =
      absl::StrCat(absl::FormatTime("%H:%M:%E3S", absl::Now(), absl::LocalTimeZone()), " ",
                   std::string(1, static_cast<char>(LevelName(level)[0] - 'a' + 'A')), " ",
                   component.empty() ? "" : absl::StrCat(component, ": "), message);
  for (const LogField& field : fields) {
    absl::StrAppend(&line, " ", field.key, "=");
    const std::string& text = field.value.text();
    if (field.value.quoted() && (text.empty() || text.find_first_of(" \"=") != text.npos ||
                                 HoldsControl(text) || !IsUtf8(text))) {
      AppendJsonString(text, &line);
    } else {
      line += text;
    }
  }
  return line;
}

}  // namespace

absl::Status InitLog(const LogOptions& options) {
  if (options.format != "plain" && options.format != "json") {
    return absl::InvalidArgumentError(
        absl::StrCat("log format '", options.format, "' is neither plain nor json"));
  }
  State& state = GlobalState();
  bool known = false;
  for (const LogLevel level :
       {LogLevel::kDebug, LogLevel::kInfo, LogLevel::kWarn, LogLevel::kError}) {
    if (options.level != LevelName(level)) continue;
    state.level = level;
    known = true;
  }
  if (!known) {
    return absl::InvalidArgumentError(
        absl::StrCat("log level '", options.level, "' is none of debug, info, warn, error"));
  }
  state.json = options.format == "json";
  state.component = Kept(options.component);
  return absl::OkStatus();
}

void Log(LogLevel level, absl::string_view message, LogFields fields) {
  State& state = GlobalState();
  if (level < state.level) return;
  const std::string line = state.json ? JsonLine(level, message, *state.component, fields)
                                      : PlainLine(level, message, *state.component, fields);
  state.logger.log(spdlog::level::info, spdlog::string_view_t(line.data(), line.size()));
}

}  // namespace d2g::common
