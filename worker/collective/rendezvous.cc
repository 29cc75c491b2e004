#include "worker/collective/rendezvous.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <charconv>
#include <exception>
#include <utility>

#include <c10/util/intrusive_ptr.h>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "model/files/error.h"
#include "worker/collective/first_line.h"

namespace d2g::collective {
namespace {

struct HostPort {
  std::string host;
  uint16_t port = 0;
};

HostPort ParseAddress(const std::string& address) {
  const size_t colon = address.rfind(':');
  HostPort parsed;
  unsigned port = 0;
  if (colon != std::string::npos) {
    parsed.host = address.substr(0, colon);
    const char* end = address.data() + address.size();
    const auto [stop, error] = std::from_chars(address.data() + colon + 1, end, port);
    if (error != std::errc() || stop != end) port = 0;
  }
  if (parsed.host.size() > 2 && parsed.host.front() == '[' && parsed.host.back() == ']') {
    parsed.host = parsed.host.substr(1, parsed.host.size() - 2);
  }
  if (parsed.host.empty() || port < 1 || port > 65535) {
    model::Fail("rendezvous address \"", address, "\" is not host:port with a port of 1 to 65535");
  }
  parsed.port = static_cast<uint16_t>(port);
  return parsed;
}

// A listening socket on `host` alone; c10d by itself would listen on every interface.
int ListenOn(const std::string& host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(host.c_str(), "0", &hints, &found); error != 0) {
    model::Fail("rendezvous host \"", host, "\": ", gai_strerror(error));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, freeaddrinfo);
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd >= 0 && bind(fd, found->ai_addr, found->ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0) {
    return fd;
  }
  const int error = errno;
  if (fd >= 0) close(fd);
  model::Fail("cannot listen on rendezvous host \"", host, "\": ", strerror(error));
}

uint16_t PortOf(int fd) {
  sockaddr_storage bound{};
  socklen_t size = sizeof(bound);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size) != 0) {
    model::Fail("getsockname: ", strerror(errno));
  }
  return ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                                           : reinterpret_cast<sockaddr_in*>(&bound)->sin_port);
}

c10d::Store* MakeStore(const HostPort& at, int listen_fd, std::chrono::milliseconds timeout) {
  c10d::TCPStoreOptions options;
  options.port = at.port;
  options.waitWorkers = false;
  options.timeout = timeout;
  if (listen_fd >= 0) {
    options.isServer = true;
    options.masterListenFd = listen_fd;
  }
  try {
    return c10::make_intrusive<c10d::TCPStore>(at.host, options).release();
  } catch (const std::exception& error) {
    throw PeerError("rendezvous at " + at.host + ":" + std::to_string(at.port) + " within " +
                    std::to_string(timeout.count()) + " ms: " + FirstLine(error));
  }
}

}  // namespace

std::unique_ptr<Rendezvous> Rendezvous::Host(const std::string& host,
                                             std::chrono::milliseconds timeout) {
  const int fd = ListenOn(host);
  const HostPort at{host, PortOf(fd)};
  const bool is_ipv6 = host.find(':') != std::string::npos;
  const std::string shown = is_ipv6 ? "[" + host + "]" : host;
  return std::unique_ptr<Rendezvous>(
      new Rendezvous(MakeStore(at, fd, timeout), shown + ":" + std::to_string(at.port)));
}

std::unique_ptr<Rendezvous> Rendezvous::Connect(const std::string& address,
                                                std::chrono::milliseconds timeout) {
  return std::unique_ptr<Rendezvous>(
      new Rendezvous(MakeStore(ParseAddress(address), -1, timeout), address));
}

Rendezvous::Rendezvous(c10d::Store* store, std::string address)
    : store_(store), address_(std::move(address)) {}

Rendezvous::~Rendezvous() { c10::intrusive_ptr<c10d::Store>::reclaim(store_); }

}  // namespace d2g::collective
