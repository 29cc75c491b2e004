#include "services/common/address.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "services/common/status_macros.h"

namespace d2g::common {

absl::StatusOr<HostPort> ParseAddress(absl::string_view address) {
  const auto bad = [&](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("address '", address, "' is not host:port: ", why));
  };
  if (const size_t scheme = address.find("://"); scheme != absl::string_view::npos) {
    return bad(absl::StrCat("leave out '", address.substr(0, scheme + 3), "'"));
  }
  const size_t colon = address.rfind(':');
  if (colon == absl::string_view::npos) return bad("it has no colon");
  absl::string_view host = address.substr(0, colon);
  if (absl::StartsWith(host, "[") && absl::EndsWith(host, "]")) {
    host = host.substr(1, host.size() - 2);
  } else if (absl::StrContains(host, ":")) {
    return bad("an IPv6 host needs brackets");
  }
  if (host.empty()) return bad("the host is empty");
  HostPort result;
  result.host = std::string(host);
  if (!absl::SimpleAtoi(address.substr(colon + 1), &result.port) || result.port < 0 ||
      result.port > 65535) {
    return bad("the port is not a number from 0 to 65535");
  }
  return result;
}

std::string FormatAddress(absl::string_view host, int port) {
  return absl::StrContains(host, ":") ? absl::StrCat("[", host, "]:", port)
                                      : absl::StrCat(host, ":", port);
}

bool IsLoopback(absl::string_view host) {
  return host == "localhost" || host == "::1" || absl::StartsWith(host, "127.");
}

absl::Status CheckListenAddress(const std::string& address, bool insecure) {
  D2G_ASSIGN_OR_RETURN(const HostPort parsed, ParseAddress(address));
  if (insecure || IsLoopback(parsed.host)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("refusing to listen on ", address,
                   " without TLS: anyone who reaches it could read and change everything; use a "
                   "loopback address, or --insecure on a network that you trust"));
}

absl::StatusOr<int> Listen(const std::string& address) {
  D2G_ASSIGN_OR_RETURN(const HostPort parsed, ParseAddress(address));
  const auto failed = [&](absl::string_view why) {
    return absl::FailedPreconditionError(absl::StrCat("cannot listen on ", address, ": ", why));
  };
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int error =
      getaddrinfo(parsed.host.c_str(), std::to_string(parsed.port).c_str(), &hints, &found);
  if (error != 0) return failed(gai_strerror(error));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, freeaddrinfo);
  const int fd = socket(found->ai_family, found->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK,
                        found->ai_protocol);
  if (fd < 0) return failed(strerror(errno));
  // Not SO_REUSEPORT: a port in use is an error, never a silent share.
  const int yes = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  if (bind(fd, found->ai_addr, found->ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0) return fd;
  const std::string why = strerror(errno);
  close(fd);
  return failed(why);
}

absl::Status ExplainListenFailure(const std::string& address) {
  D2G_ASSIGN_OR_RETURN(const int fd, Listen(address));
  close(fd);
  return absl::OkStatus();
}

}  // namespace d2g::common
