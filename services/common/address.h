// host:port addresses: parsing, and the rules about where a process may listen.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace d2g::common {

struct HostPort {
  std::string host;
  int port = 0;
};

// "127.0.0.1:7070", "[::1]:0", "localhost:0". INVALID_ARGUMENT names the text and what is wrong.
absl::StatusOr<HostPort> ParseAddress(absl::string_view address);

// "host:port", with brackets around an IPv6 host.
std::string FormatAddress(absl::string_view host, int port);

// True for 127.0.0.0/8, ::1 and localhost.
bool IsLoopback(absl::string_view host);

// Listening beyond loopback without TLS is refused unless `insecure`: FAILED_PRECONDITION names the
// address and the flag.
absl::Status CheckListenAddress(const std::string& address, bool insecure);

// A listening TCP socket, non-blocking and closed on exec, that the caller owns; port 0 takes a
// free one. FAILED_PRECONDITION says why not: "cannot listen on 127.0.0.1:80: Permission denied".
absl::StatusOr<int> Listen(const std::string& address);

// Listen's error for `address`; OK when a trial works. For error messages only: the answer may
// change at once.
absl::Status ExplainListenFailure(const std::string& address);

}  // namespace d2g::common
