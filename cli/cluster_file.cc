#include "cli/cluster_file.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "services/common/file_io.h"
#include "services/common/status_macros.h"

namespace d2g::cli {

using nlohmann::json;

std::string DefaultDataDir() {
  const auto get = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value == nullptr ? "" : value);
  };
  if (const std::string chosen = get("D2G_DATA_DIR"); !chosen.empty()) return chosen;
  if (const std::string data = get("XDG_DATA_HOME"); !data.empty()) return data + "/d2g";
  const std::string home = get("HOME");
  return (home.empty() ? "." : home) + "/.local/share/d2g";
}

std::string NotEmpty(const std::string& folder) {
  return folder.empty() ? "it is empty; name a folder" : "";
}

CLI::Option* AddDataDirFlag(CLI::App* app, std::string* data_dir, const std::string& help) {
  return app->add_option("--data-dir", *data_dir, help)->capture_default_str()->check(NotEmpty);
}

std::string ClusterFilePath(const std::string& data_dir) { return data_dir + "/cluster.json"; }

absl::Status WriteClusterFile(const ClusterFile& cluster) {
  json processes = json::array();
  for (const ClusterMember& member : cluster.processes) {
    processes.push_back({{"name", member.name},
                         {"pid", member.pid},
                         {"grpc", member.grpc},
                         {"admin", member.admin},
                         {"log", member.log},
                         {"restarts", member.restarts}});
  }
  const json file = {{"pid", cluster.pid},
                     {"data_dir", cluster.data_dir},
                     {"coordinator", cluster.coordinator},
                     {"processes", processes}};
  return common::WriteFileAtomically(ClusterFilePath(cluster.data_dir), file.dump(2) + "\n");
}

absl::StatusOr<ClusterFile> ReadClusterFile(const std::string& data_dir) {
  const std::string path = ClusterFilePath(data_dir);
  if (access(path.c_str(), F_OK) != 0) {
    return absl::NotFoundError(absl::StrCat(path, ": no such file"));
  }
  D2G_ASSIGN_OR_RETURN(const std::string text, common::ReadFile(path));
  try {
    const json file = json::parse(text);
    ClusterFile cluster;
    cluster.pid = file.at("pid").get<int>();
    cluster.data_dir = file.at("data_dir").get<std::string>();
    cluster.coordinator = file.at("coordinator").get<std::string>();
    for (const json& process : file.at("processes")) {
      cluster.processes.push_back({.name = process.at("name").get<std::string>(),
                                   .pid = process.at("pid").get<int>(),
                                   .grpc = process.at("grpc").get<std::string>(),
                                   .admin = process.at("admin").get<std::string>(),
                                   .log = process.at("log").get<std::string>(),
                                   .restarts = process.at("restarts").get<int>()});
    }
    return cluster;
  } catch (const json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a cluster file: ", error.what()));
  }
}

}  // namespace d2g::cli
