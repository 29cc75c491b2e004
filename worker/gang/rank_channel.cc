#include "worker/gang/rank_channel.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "google/protobuf/util/json_util.h"

namespace d2g::gang {
namespace {

using nlohmann::json;

absl::Status BadLaunch(std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("rank assignment: ", std::string(what)));
}

absl::Status BadLine(std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("rank status line: ", std::string(what)));
}

// Reads an optional string member into *out.
absl::Status TakeString(const json& from, const char* key, std::string* out) {
  const auto it = from.find(key);
  if (it == from.end()) return absl::OkStatus();
  if (!it->is_string()) return BadLaunch(absl::StrCat("\"", key, "\" is not a string"));
  *out = it->get<std::string>();
  return absl::OkStatus();
}

// The same for a list of strings.
absl::Status TakeStrings(const json& from, const char* key, std::vector<std::string>* out) {
  const auto it = from.find(key);
  if (it == from.end()) return absl::OkStatus();
  const bool good = it->is_array() && std::all_of(it->begin(), it->end(), [](const json& entry) {
                      return entry.is_string();
                    });
  if (!good) return BadLaunch(absl::StrCat("\"", key, "\" is not a list of strings"));
  *out = it->get<std::vector<std::string>>();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> FormatRankLaunch(const RankLaunch& launch) {
  std::string assignment;
  const auto status = google::protobuf::util::MessageToJsonString(launch.assignment, &assignment);
  if (!status.ok()) return BadLaunch(status.ToString());
  json out = json::object();
  out["assignment"] = json::parse(assignment);
  out["coordinator"] = launch.coordinator;
  out["advertise_host"] = launch.advertise_host;
  out["device"] = launch.device;
  out["threads"] = launch.threads;
  out["agent"] = launch.agent;
  out["node"] = launch.node;
  out["log_format"] = launch.log_format;
  out["model_roots"] = launch.paths.model_roots;
  out["output_roots"] = launch.paths.output_roots;
  out["keep_out"] = launch.paths.keep_out;
  return out.dump(1);
}

absl::StatusOr<RankLaunch> ParseRankLaunch(std::string_view text) {
  const json in = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!in.is_object()) return BadLaunch("not a JSON object");
  const auto assignment = in.find("assignment");
  if (assignment == in.end() || !assignment->is_object()) {
    return BadLaunch("\"assignment\" is missing");
  }
  RankLaunch launch;
  const auto parsed =
      google::protobuf::util::JsonStringToMessage(assignment->dump(), &launch.assignment);
  if (!parsed.ok()) return BadLaunch(parsed.ToString());
  for (const auto& [key, member] :
       {std::pair{"coordinator", &launch.coordinator},
        std::pair{"advertise_host", &launch.advertise_host}, std::pair{"device", &launch.device},
        std::pair{"agent", &launch.agent}, std::pair{"node", &launch.node},
        std::pair{"log_format", &launch.log_format}}) {
    if (absl::Status status = TakeString(in, key, member); !status.ok()) return status;
  }
  for (const auto& [key, member] : {std::pair{"model_roots", &launch.paths.model_roots},
                                    std::pair{"output_roots", &launch.paths.output_roots},
                                    std::pair{"keep_out", &launch.paths.keep_out}}) {
    if (absl::Status status = TakeStrings(in, key, member); !status.ok()) return status;
  }
  if (const auto threads = in.find("threads"); threads != in.end()) {
    if (!threads->is_number_integer() || threads->get<int64_t>() < 1 ||
        threads->get<int64_t>() > 1024) {
      return BadLaunch(absl::StrCat("\"threads\" is ", threads->dump(), ", limits 1 and 1024"));
    }
    launch.threads = threads->get<int>();
  }
  return launch;
}

std::string FormatRankReport(const RankReport& report) {
  json out = json::object();
  if (report.rendezvous) out["rendezvous"] = *report.rendezvous;
  if (report.phase) out["phase"] = *report.phase;
  if (report.step) out["step"] = *report.step;
  if (report.progress) out["progress"] = *report.progress;
  // JSON has no NaN: nlohmann writes null, which the reader takes back as NaN.
  if (!report.metrics.empty()) out["metrics"] = report.metrics;
  return out.dump(-1, ' ', false, json::error_handler_t::replace);
}

absl::StatusOr<RankReport> ParseRankReport(std::string_view line) {
  const json in = json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!in.is_object()) return BadLine("not a JSON object");
  RankReport report;
  if (const auto it = in.find("rendezvous"); it != in.end()) {
    if (!it->is_string()) return BadLine("\"rendezvous\" is not a string");
    report.rendezvous = it->get<std::string>();
  }
  if (const auto it = in.find("phase"); it != in.end()) {
    if (!it->is_string()) return BadLine("\"phase\" is not a string");
    report.phase = it->get<std::string>();
  }
  if (const auto it = in.find("step"); it != in.end()) {
    if (!it->is_number_integer()) return BadLine("\"step\" is not an integer");
    report.step = it->get<int64_t>();
  }
  if (const auto it = in.find("progress"); it != in.end()) {
    if (!it->is_number_integer()) return BadLine("\"progress\" is not an integer");
    report.progress = it->get<int64_t>();
  }
  if (const auto it = in.find("metrics"); it != in.end()) {
    if (!it->is_object()) return BadLine("\"metrics\" is not an object");
    for (const auto& [name, value] : it->items()) {
      if (value.is_number()) {
        report.metrics[name] = value.get<double>();
      } else if (value.is_null()) {
        report.metrics[name] = std::numeric_limits<double>::quiet_NaN();
      } else {
        return BadLine(absl::StrCat("metric \"", name, "\" is not a number"));
      }
    }
  }
  return report;
}

absl::Status RankStatusWriter::Write(const RankReport& report) {
  if (fd_ < 0) return absl::OkStatus();
  const std::string line = FormatRankReport(report) + "\n";
  size_t sent = 0;
  while (sent < line.size()) {
    const ssize_t n = ::write(fd_, line.data() + sent, line.size() - sent);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      return absl::UnavailableError(
          absl::StrCat("cannot write to the agent's status pipe: ", strerror(errno)));
    }
    sent += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

}  // namespace d2g::gang
