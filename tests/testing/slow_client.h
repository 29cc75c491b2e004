// A TCP client that does not behave: it sends half a request, a byte at a time, or never reads.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <string_view>

namespace d2g::testing {

// A connection to 127.0.0.1 that does only what it is told. Not thread-safe.
class SlowClient {
 public:
  explicit SlowClient(int port) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  }
  ~SlowClient() { close(fd_); }
  SlowClient(const SlowClient&) = delete;
  SlowClient& operator=(const SlowClient&) = delete;

  // False when the server has hung up.
  bool Send(std::string_view bytes) {
    return IsOpen() && send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL) > 0;
  }

  // Whether the server has not hung up, as far as can be told without waiting.
  bool IsOpen() const {
    pollfd wait = {fd_, POLLRDHUP, 0};
    return connected_ && poll(&wait, 1, 0) == 0;
  }

  // What the server sends until it hangs up.
  std::string ReadToEnd() {
    std::string text;
    char buffer[4096];
    ssize_t got = 0;
    while ((got = recv(fd_, buffer, sizeof(buffer), 0)) > 0) {
      text.append(buffer, static_cast<size_t>(got));
    }
    return text;
  }

 private:
  const int fd_;
  bool connected_ = false;
};

}  // namespace d2g::testing
