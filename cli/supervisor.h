// Keeps a fixed set of processes running: the local cluster of `d2g up`.
//
// Members start in stages: every member of a stage has written its port file before the next stage
// starts, because later ones are told the addresses of earlier ones. A member that asks for any
// port gets the one that it had when the cluster ran last, where nobody else has taken it
// meanwhile. During this first start a member that ends makes the start fail with the tail of its
// log. From then on a member that ends is started again after a jittered, growing delay, on the
// ports it had, so that its peers find it where it was. One that somebody told to stop and that
// drained (kExitStopped) is started again as quickly as the first time. Stopping goes through the
// stages backwards: SIGTERM, then SIGKILL after a grace.
//
// Not thread-safe: everything happens on the thread that calls Start, Run and Stop, which must have
// blocked SIGCHLD and the stop signals (BlockSupervisorSignals). Children die with that thread. The
// process must have no other children: whatever else ends, such as the orphans of a killed member,
// which the kernel gives to a supervisor that started, is reaped and forgotten.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "cli/cluster_file.h"
#include "cli/process.h"
#include "services/common/clock.h"
#include "services/common/port_file.h"
#include "services/common/retry.h"

namespace d2g::cli {

// Addresses of members by name, as far as they are known.
class AddressBook {
 public:
  virtual ~AddressBook() = default;
  // host:port of the member's gRPC service. REQUIRES: it belongs to an earlier stage.
  virtual std::string GrpcAddress(const std::string& member) const = 0;
};

// What a member is.
struct MemberSpec {
  std::string name;
  // Members start stage by stage, from 0.
  int stage = 0;
  // Whether it serves gRPC (has a "grpc" port in its port file).
  bool serves_grpc = true;
  // The gRPC port to ask for; 0: any.
  int port = 0;
  // Between SIGTERM and SIGKILL.
  absl::Duration grace = absl::Seconds(10);
  // The command line for these ports (0: any free one). It must make the program write `port_file`
  // (services/common/port_file.h).
  std::function<std::vector<std::string>(const common::Ports& ports, const std::string& port_file,
                                         const AddressBook& addresses)>
      argv;
};

struct SupervisorOptions {
  // Logs go to DATA_DIR/logs, port files to DATA_DIR/run, addresses to DATA_DIR/cluster.json.
  std::string data_dir;
  // The start fails when a stage is not up by then.
  absl::Duration start_timeout = absl::Seconds(120);
  // Told of every restart, one line of text.
  std::function<void(const std::string&)> report;
};

// SIGCHLD, SIGTERM, SIGINT and SIGHUP: Run takes them by sigtimedwait.
void BlockSupervisorSignals();

class Supervisor final : private AddressBook {
 public:
  // Does not own `clock`. The first member of stage 0 is the coordinator of the cluster file.
  Supervisor(SupervisorOptions options, std::vector<MemberSpec> members, common::Clock* clock);
  // Stops what still runs.
  ~Supervisor() override;

  // Starts every stage. On an error, or when a stop signal came (CANCELLED), everything that was
  // started is stopped again.
  absl::Status Start();

  // Supervises until a stop signal comes; returns the signal.
  int Run();

  // Stops everything, in order, and removes the cluster file. Idempotent.
  void Stop();

  // As written to cluster.json.
  ClusterFile Describe() const;

 private:
  struct Member {
    MemberSpec spec;
    common::Ports ports;
    common::Backoff backoff;
    pid_t pid = 0;           // 0: not running
    bool listening = false;  // its port file has been read since it was last started
    int restarts = 0;
    absl::Duration started;   // steady time
    absl::Duration start_at;  // steady time of the next start when not running
  };

  std::string GrpcAddress(const std::string& member) const override;
  std::string LogPath(const Member& member) const;
  std::string PortFilePath(const Member& member) const;
  // Asks for the ports that the last run's port file names, as far as they are free.
  void TakeOldPorts(Member& member) const;
  absl::Status StartStage(int stage);
  absl::Status StartMember(Member& member);
  // Reads the port file if it is there.
  absl::Status LookForPorts(Member& member);
  // The wait before the next start of a member that ran for `ran`.
  static absl::Duration NextDelay(Member& member, absl::Duration ran);
  // Reaps members that ended and plans their restarts.
  void ReapAndPlan();
  // Reaps ended children that are no members.
  void ReapOrphans();
  // Starts what is due; returns how long until the next one is.
  absl::Duration StartDue();
  void StopStage(int stage);
  void SaveClusterFile();

  const SupervisorOptions options_;
  common::Clock* const clock_;
  std::vector<std::unique_ptr<Member>> members_;
  int stages_ = 0;
};

}  // namespace d2g::cli
