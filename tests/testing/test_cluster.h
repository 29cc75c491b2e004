// A whole cluster of real processes on loopback, each of which can be killed and restarted.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/client/client.h"
#include "d2g/coordinator/v1/job.pb.h"
#include "services/common/port_file.h"
#include "tests/testing/process.h"
#include "tests/testing/temp_dir.h"

namespace d2g::testing {

// A kind of process.
enum class Role { kCoordinator, kStore, kWorker, kTrainer };

// "d2g-coordinator", ...
const char* ProgramOf(Role role);

struct TestClusterOptions {
  int shards = 2;
  int workers = 2;
  // Agents, each with `slots` ranks.
  int trainers = 1;
  int slots = 2;
  absl::Duration lease_duration = absl::Seconds(5);
  absl::Duration gang_settle = absl::Milliseconds(300);
  absl::Duration agent_timeout = absl::Seconds(5);
  // Flags of every store, besides the usual ones.
  std::vector<std::string> store_flags;
};

// What the shards hold of a dataset, added up.
struct DatasetAudit {
  int64_t checked = 0;
  int64_t bad = 0;
  int64_t present = 0;
  // Per index of [0, n): how many shards have it sealed.
  std::vector<int> copies;
};

// A process by its role and number.
using MemberId = std::pair<Role, int>;

// Programs come from $D2G_BIN_DIR. The coordinator and the stores keep their ports over restarts.
// Everything dies and is removed with the cluster. Not thread-safe.
class TestCluster {
 public:
  explicit TestCluster(TestClusterOptions options = {});

  // Starts all and waits until they listen.
  absl::Status Start();

  // SIGKILL, and waits for the end.
  void Kill(Role role, int number = 0);
  // SIGTERM, and what came of it.
  ExitResult Terminate(Role role, int number = 0, absl::Duration timeout = absl::Seconds(30));
  // Starts one that has ended, on its old ports and folder.
  absl::Status Restart(Role role, int number = 0);
  // The rank processes that the trainer has now.
  std::vector<pid_t> RankPids(int trainer = 0) const;
  // For stores that start from now on.
  void SetStoreFlags(std::vector<std::string> flags) { options_.store_flags = std::move(flags); }
  bool Running(Role role, int number = 0);

  coordinator::CoordinatorClient& client() { return *client_; }
  const TempDir& dir() const { return dir_; }
  std::vector<MemberId> members() const;
  // The text of /metrics; empty when the process does not answer.
  std::string Scrape(Role role, int number = 0) const;
  // What every process has written so far, its last `bytes` each: for the message of a failure.
  std::string Logs(size_t bytes = 4000) const;

  std::string coordinator_address() const;
  // Uploads the prompts and submits the spec, with its paths inside dir().
  absl::StatusOr<coordinator::v1::Job> Submit(coordinator::v1::JobSpec spec,
                                              const std::string& prompts);
  // Asks for the job until it has ended or `timeout` passed.
  absl::StatusOr<coordinator::v1::Job> WaitForEnd(const std::string& job, absl::Duration timeout);
  // Recomputes every checksum on every shard and counts the copies of each index below n.
  absl::StatusOr<DatasetAudit> Audit(const std::string& dataset, int64_t n);

 private:
  struct Member {
    std::unique_ptr<Process> process;
    common::Ports ports;
    std::string output;  // of earlier lives
  };

  absl::Status Launch(Role role, int number);
  std::vector<std::string> Arguments(Role role, int number, const common::Ports& ports) const;
  std::string Name(Role role, int number) const;
  Member& At(Role role, int number) { return *members_.at({role, number}); }
  // Keeps what an ended process wrote.
  void Bury(Member& member, const ExitResult& result);

  TestClusterOptions options_;
  TempDir dir_;
  std::map<MemberId, std::unique_ptr<Member>> members_;
  std::unique_ptr<coordinator::CoordinatorClient> client_;
};

// Values by "name{labels}" of the d2g_ series in a scrape.
std::map<std::string, double> ParseMetrics(const std::string& exposed);

// The d2g_ families of which some series differs between two scrapes.
std::vector<std::string> MovedFamilies(const std::string& before, const std::string& after);

}  // namespace d2g::testing
