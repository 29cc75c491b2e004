// What every program's command line and exit have in common.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "services/common/log.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace d2g::common {

// Exit codes of all programs; documented in docs/.
enum ExitCode : int {
  kExitOk = 0,
  kExitFailure = 1,
  kExitUsage = 2,
  kExitBadInput = 3,
  kExitCannotReach = 4,
  // Told to stop with work open, which was saved or given back: to be started again, here or
  // elsewhere. A process that is told to stop with nothing open ends with kExitOk.
  kExitStopped = 75,
};

// 3 for bad input (INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, FAILED_PRECONDITION,
// PERMISSION_DENIED, OUT_OF_RANGE), 4 for UNAVAILABLE and DEADLINE_EXCEEDED, 0 for OK, else 1.
int ExitCodeOf(const absl::Status& status);

// Prints "d2g-store: the message" on stderr (nothing for OK) and returns ExitCodeOf.
int ReportFailure(const std::string& program, const absl::Status& status);

// Flags of every long-running process.
struct ServerFlags {
  // gRPC. Empty for processes that serve none.
  std::string listen = "127.0.0.1:0";
  // What others connect to; empty: the address bound.
  std::string advertise_address;
  // HTTP.
  std::string admin_address = "127.0.0.1:0";
  // See port_file.h; empty: none.
  std::string port_file;
  // Allows listening beyond loopback without TLS.
  bool insecure = false;
  LogOptions log;
};

// --log-format, --log-level.
void AddLogFlags(CLI::App* app, LogOptions* options);

// --listen, --advertise-address (both only when `serves_grpc`), --admin-address, --port-file,
// --insecure and the log flags.
void AddServerFlags(CLI::App* app, ServerFlags* flags, bool serves_grpc = true);

// The "host:port" of a peer; a bad command line names the flag, the value and what is wrong.
CLI::Option* AddPeerFlag(CLI::App* app, const std::string& name, std::string* value,
                         const std::string& help);

// A duration in Go style ("90s", "1m30s"), positive.
void AddDurationFlag(CLI::App* app, const std::string& name, absl::Duration* value,
                     const std::string& help);

// Parses; adds --version. Returns the exit code when the program should end now: 0 after --help or
// --version, 2 after a message about a bad command line.
std::optional<int> ParseCommandLine(CLI::App* app, int argc, char** argv);

}  // namespace d2g::common
