#include "services/common/program.h"

#include <cstdio>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "services/common/address.h"
#include "services/common/version.h"

namespace d2g::common {

int ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitOk;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kOutOfRange:
      return kExitBadInput;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
      return kExitCannotReach;
    default:
      return kExitFailure;
  }
}

int ReportFailure(const std::string& program, const absl::Status& status) {
  if (!status.ok()) {
    const std::string line = absl::StrCat(program, ": ", status.message(), "\n");
    std::fwrite(line.data(), 1, line.size(), stderr);
  }
  return ExitCodeOf(status);
}

void AddLogFlags(CLI::App* app, LogOptions* options) {
  app->add_option("--log-format", options->format, "plain or json")
      ->check(CLI::IsMember({"plain", "json"}))
      ->capture_default_str();
  app->add_option("--log-level", options->level, "debug, info, warn or error")
      ->check(CLI::IsMember({"debug", "info", "warn", "error"}))
      ->capture_default_str();
}

void AddServerFlags(CLI::App* app, ServerFlags* flags, bool serves_grpc) {
  if (serves_grpc) {
    app->add_option("--listen", flags->listen, "host:port for gRPC; port 0 takes a free one")
        ->capture_default_str();
    AddPeerFlag(app, "--advertise-address", &flags->advertise_address,
                "host:port that others connect to (default: the address bound)");
  }
  app->add_option("--admin-address", flags->admin_address,
                  "host:port for /metrics, /healthz (answers) and /readyz (can do its work; not "
                  "once told to stop)")
      ->capture_default_str();
  app->add_option("--port-file", flags->port_file,
                  "write {\"grpc\": PORT, \"admin\": PORT} here once listening");
  app->add_flag("--insecure", flags->insecure,
                "listen beyond loopback without TLS (only on a network that you trust)");
  AddLogFlags(app, &flags->log);
}

CLI::Option* AddPeerFlag(CLI::App* app, const std::string& name, std::string* value,
                         const std::string& help) {
  return app
      ->add_option_function<std::string>(
          name,
          [name, value](const std::string& text) {
            const absl::StatusOr<HostPort> address = ParseAddress(text);
            if (!address.ok()) {
              throw CLI::ValidationError(name, std::string(address.status().message()));
            }
            if (address->port == 0) {
              throw CLI::ValidationError(
                  name, absl::StrCat("'", text, "' has port 0, which nobody can connect to"));
            }
            *value = text;
          },
          help)
      ->type_name("HOST:PORT");
}

void AddDurationFlag(CLI::App* app, const std::string& name, absl::Duration* value,
                     const std::string& help) {
  app->add_option_function<std::string>(
         name,
         [name, value](const std::string& text) {
           absl::Duration parsed;
           if (!absl::ParseDuration(text, &parsed) || parsed <= absl::ZeroDuration()) {
             throw CLI::ValidationError(
                 name, absl::StrCat("'", text, "' is not a positive duration like 90s or 1m30s"));
           }
           *value = parsed;
         },
         help)
      ->type_name("DURATION")
      ->default_str(absl::FormatDuration(*value));
}

std::optional<int> ParseCommandLine(CLI::App* app, int argc, char** argv) {
  app->set_version_flag("--version", std::string(Version()));
  try {
    app->parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app->exit(error) == 0 ? kExitOk : kExitUsage;
  }
  return std::nullopt;
}

}  // namespace d2g::common
