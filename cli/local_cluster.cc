#include "cli/local_cluster.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace d2g::cli {
namespace {

// Peers find each other by the coordinator, so one address is all that is handed out.
constexpr char kCoordinator[] = "coordinator";

// The agent gives its ranks GPUs by number itself.
std::string TrainerDevice(const std::string& device) { return device.substr(0, device.find(':')); }

std::string Loopback(int port) { return absl::StrCat("127.0.0.1:", port); }

std::string CoordinatorFolder(const LocalClusterOptions& o) { return o.data_dir + "/coordinator"; }

std::string StoreFolder(const LocalClusterOptions& o, int shard) {
  return absl::StrCat(o.data_dir, "/store-", shard);
}

using Arguments = std::vector<std::string>;

class NoAddresses final : public AddressBook {
 public:
  std::string GrpcAddress(const std::string& /*member*/) const override { return ""; }
};

void Append(Arguments& to, const Arguments& more) { to.insert(to.end(), more.begin(), more.end()); }

Arguments Shared(const std::string& program, const common::Ports& ports,
                 const std::string& port_file) {
  return {program, "--admin-address", Loopback(ports.admin), "--port-file", port_file};
}

// The policy, with the folders that the members keep.
common::PathPolicy WithOwnFolders(const LocalClusterOptions& o) {
  common::PathPolicy paths = o.paths;
  paths.keep_out.push_back(CoordinatorFolder(o));
  for (int k = 0; k < o.shards; ++k) paths.keep_out.push_back(StoreFolder(o, k));
  return paths;
}

}  // namespace

std::vector<MemberSpec> LocalClusterMembers(const LocalClusterOptions& options) {
  LocalClusterOptions o = options;
  o.paths = WithOwnFolders(options);
  std::vector<MemberSpec> members;
  members.push_back(
      {.name = kCoordinator,
       .stage = 0,
       .port = o.port,
       .argv = [o](const common::Ports& ports, const std::string& port_file, const AddressBook&) {
         Arguments argv = Shared(o.bin_dir + "/d2g-coordinator", ports, port_file);
         Append(argv, {"--listen", Loopback(ports.grpc), "--data-dir", CoordinatorFolder(o),
                       "--shards", absl::StrCat(o.shards), "--lease-duration",
                       absl::FormatDuration(o.lease_duration)});
         Append(argv, common::PathArguments(o.paths));
         return argv;
       }});
  for (int k = 0; k < o.shards; ++k) {
    members.push_back({.name = absl::StrCat("store-", k),
                       .stage = 1,
                       .argv = [o, k](const common::Ports& ports, const std::string& port_file,
                                      const AddressBook& addresses) {
                         Arguments argv = Shared(o.bin_dir + "/d2g-store", ports, port_file);
                         Append(argv, {"--listen", Loopback(ports.grpc), "--data-dir",
                                       StoreFolder(o, k), "--shard", absl::StrCat(k),
                                       "--coordinator", addresses.GrpcAddress(kCoordinator)});
                         return argv;
                       }});
  }
  for (int k = 0; k < o.workers; ++k) {
    members.push_back({.name = absl::StrCat("worker-", k),
                       .stage = 2,
                       .serves_grpc = false,
                       .grace = kLocalWorkerGrace + kLocalKillMargin,
                       .argv = [o](const common::Ports& ports, const std::string& port_file,
                                   const AddressBook& addresses) {
                         Arguments argv = Shared(o.bin_dir + "/d2g-worker", ports, port_file);
                         Append(argv, {"--coordinator", addresses.GrpcAddress(kCoordinator),
                                       "--threads", absl::StrCat(o.threads), "--device", o.device,
                                       "--grace", absl::FormatDuration(kLocalWorkerGrace)});
                         Append(argv, common::PathArguments(o.paths));
                         return argv;
                       }});
  }
  members.push_back({.name = "trainer-0",
                     .stage = 2,
                     .serves_grpc = false,
                     .grace = kLocalLeaveTimeout + kLocalKillMargin,
                     .argv = [o](const common::Ports& ports, const std::string& port_file,
                                 const AddressBook& addresses) {
                       Arguments argv = Shared(o.bin_dir + "/d2g-trainer", ports, port_file);
                       Append(argv, {"--coordinator", addresses.GrpcAddress(kCoordinator),
                                     "--slots", absl::StrCat(o.slots), "--device",
                                     TrainerDevice(o.device), "--rank-binary",
                                     o.bin_dir + "/d2g-rank", "--threads", absl::StrCat(o.threads),
                                     "--leave-timeout", absl::FormatDuration(kLocalLeaveTimeout)});
                       Append(argv, common::PathArguments(o.paths));
                       return argv;
                     }});
  return members;
}

absl::Status CheckPrograms(const std::vector<MemberSpec>& members) {
  for (const MemberSpec& member : members) {
    const std::string program = member.argv({}, "", NoAddresses()).front();
    if (access(program.c_str(), X_OK) != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("cannot run ", program, ": ", std::strerror(errno)));
    }
  }
  return absl::OkStatus();
}

}  // namespace d2g::cli
