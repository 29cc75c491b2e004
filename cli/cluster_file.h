// cluster.json: where the local cluster of a data folder answers. Written by `d2g up` at each
// change, read by every other subcommand to find the coordinator; removed when the cluster stops.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace d2g::cli {

// One supervised process.
struct ClusterMember {
  // "coordinator", "store-0", "worker-1", "trainer-0".
  std::string name;
  int pid = 0;
  // host:port of its gRPC service; empty when it has none.
  std::string grpc;
  // host:port of /metrics, /healthz, /readyz.
  std::string admin;
  std::string log;
  // Times it was started again.
  int restarts = 0;
};

// The cluster as it stands.
struct ClusterFile {
  // Process that supervises it.
  int pid = 0;
  std::string data_dir;
  // host:port.
  std::string coordinator;
  std::vector<ClusterMember> processes;
};

// $D2G_DATA_DIR, else $XDG_DATA_HOME/d2g, else ~/.local/share/d2g.
std::string DefaultDataDir();
// For CLI11's check: empty when `folder` names one, else what is wrong.
std::string NotEmpty(const std::string& folder);
// Adds --data-dir, not empty, with the value of *data_dir as its default.
CLI::Option* AddDataDirFlag(CLI::App* app, std::string* data_dir, const std::string& help);
// DATA_DIR/cluster.json.
std::string ClusterFilePath(const std::string& data_dir);

// Replaces the file as a whole.
absl::Status WriteClusterFile(const ClusterFile& cluster);
// NOT_FOUND when there is none, INVALID_ARGUMENT when it is damaged.
absl::StatusOr<ClusterFile> ReadClusterFile(const std::string& data_dir);

}  // namespace d2g::cli
