#include "services/common/http_server.h"

#include <microhttpd.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "services/common/address.h"
#include "services/common/clock.h"
#include "services/common/status_macros.h"

namespace d2g::common {
namespace {

// Connections that the library may accept before the oldest ones are closed for them.
constexpr int kSlack = 32;

using Response = std::shared_ptr<MHD_Response>;

struct ReadyResponse {
  unsigned int status = MHD_HTTP_NOT_FOUND;
  Response response;
};

ReadyResponse MakeResponse(HttpAnswer answer, const std::string& content_type) {
  ReadyResponse made{static_cast<unsigned int>(answer.status),
                     Response(MHD_create_response_from_buffer(
                                  answer.body.size(), answer.body.data(), MHD_RESPMEM_MUST_COPY),
                              MHD_destroy_response)};
  MHD_add_response_header(made.response.get(), MHD_HTTP_HEADER_CONNECTION, "close");
  MHD_add_response_header(made.response.get(), MHD_HTTP_HEADER_CONTENT_TYPE, content_type.c_str());
  return made;
}

// Makes the answers of one route on a thread of its own. Thread-safe.
class Answerer {
 public:
  struct Made {
    // Requests with tickets up to this one came before the call.
    uint64_t ticket = 0;
    ReadyResponse answer;
  };

  // `wake` is called when there is something to Take.
  Answerer(HttpRoute route, std::function<void()> wake)
      : route_(std::move(route)), wake_(std::move(wake)), thread_([this] { Work(); }) {}
  ~Answerer() {
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
    }
    thread_.join();
  }

  // A request's ticket.
  uint64_t Ask() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return ++asked_;
  }

  // What was made since the last call; ticket 0: nothing.
  Made Take() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return std::exchange(made_, {});
  }

 private:
  void Work() ABSL_LOCKS_EXCLUDED(mutex_) {
    uint64_t answered = 0;
    const auto due = [this, &answered]()
                         ABSL_NO_THREAD_SAFETY_ANALYSIS { return stopping_ || asked_ > answered; };
    while (true) {
      {
        absl::MutexLock lock(&mutex_);
        mutex_.Await(absl::Condition(&due));
        if (stopping_) return;
        answered = asked_;
      }
      ReadyResponse answer = MakeResponse(route_.answer(), route_.content_type);
      {
        absl::MutexLock lock(&mutex_);
        made_ = {answered, std::move(answer)};
      }
      wake_();
    }
  }

  const HttpRoute route_;
  const std::function<void()> wake_;
  absl::Mutex mutex_;
  uint64_t asked_ ABSL_GUARDED_BY(mutex_) = 0;
  Made made_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

class EventServer final : public HttpServer {
 public:
  EventServer(std::vector<HttpRoute> routes, const HttpServerOptions& options)
      : options_(options), wake_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    not_found_ = MakeResponse({.status = MHD_HTTP_NOT_FOUND, .body = ""}, "text/plain");
    for (HttpRoute& route : routes) {
      Route made{.route = route, .answerer = nullptr};
      if (!route.immediate) {
        made.answerer = std::make_unique<Answerer>(std::move(route), [this] { Wake(); });
      }
      routes_.push_back(std::move(made));
    }
  }

  ~EventServer() override {
    stopping_ = true;
    Wake();
    if (loop_.joinable()) loop_.join();
    // Before the descriptor that its threads wake.
    routes_.clear();
    close(wake_fd_);
  }

  absl::Status Listen(const std::string& address) {
    D2G_ASSIGN_OR_RETURN(const int fd, common::Listen(address));
    sockaddr_storage bound = {};
    socklen_t size = sizeof(bound);
    getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size);
    // At the same place in both families.
    port_ = ntohs(reinterpret_cast<const sockaddr_in*>(&bound)->sin_port);
    // The library owns the socket from here on.
    daemon_ = MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, /*port=*/0, nullptr,
                               nullptr, &OnRequest, this, MHD_OPTION_LISTEN_SOCKET, fd,
                               MHD_OPTION_CONNECTION_LIMIT,
                               static_cast<unsigned int>(options_.max_connections + kSlack),
                               MHD_OPTION_NOTIFY_CONNECTION, &OnConnection, this, MHD_OPTION_END);
    if (daemon_ == nullptr) {
      return absl::InternalError(absl::StrCat("cannot serve HTTP on ", address));
    }
    loop_ = std::thread([this] { Loop(); });
    return absl::OkStatus();
  }

  int port() const override { return port_; }

 private:
  struct Route {
    HttpRoute route;
    // Null for an immediate route.
    std::unique_ptr<Answerer> answerer;
  };

  struct Connection {
    MHD_Connection* handle = nullptr;
    int fd = -1;
    absl::Duration arrived;
    // Whether its end was asked for.
    bool closing = false;
    // While it waits, suspended, for a route's answer: whose, and from which ticket on.
    Answerer* waits_for = nullptr;
    uint64_t ticket = 0;
    // What a connection that waited is to be answered.
    ReadyResponse answer = {};
  };

  // Everything below runs on the loop's thread.
  void Loop() {
    const int epoll_fd = MHD_get_daemon_info(daemon_, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
    while (!stopping_) {
      pollfd waits[] = {{epoll_fd, POLLIN, 0}, {wake_fd_, POLLIN, 0}};
      poll(waits, std::size(waits), TimeoutMs());
      uint64_t ignored;
      [[maybe_unused]] const ssize_t got = read(wake_fd_, &ignored, sizeof(ignored));
      Deliver();
      CloseOverdue();
      MHD_run(daemon_);
    }
    // The library refuses to stop while one is suspended.
    for (Connection& connection : connections_) Close(connection);
    MHD_stop_daemon(daemon_);
  }

  // Until the library or a connection's deadline has something to do.
  int TimeoutMs() const {
    absl::Duration wait = absl::InfiniteDuration();
    for (const Connection& connection : connections_) {
      if (connection.closing) continue;
      wait = connection.arrived + options_.deadline - clock_->SteadyNow();
      break;
    }
    MHD_UNSIGNED_LONG_LONG library_ms = 0;
    if (MHD_get_timeout(daemon_, &library_ms) == MHD_YES) {
      wait = std::min(wait, absl::Milliseconds(library_ms));
    }
    if (wait == absl::InfiniteDuration()) return -1;
    return static_cast<int>(
        std::max<int64_t>(0, absl::ToInt64Milliseconds(absl::Ceil(wait, absl::Milliseconds(1)))));
  }

  void Deliver() {
    for (const Route& route : routes_) {
      if (route.answerer == nullptr) continue;
      const Answerer::Made made = route.answerer->Take();
      if (made.ticket == 0) continue;
      for (Connection& connection : connections_) {
        if (connection.waits_for != route.answerer.get() || connection.ticket > made.ticket) {
          continue;
        }
        connection.answer = made.answer;
        Resume(connection);
      }
    }
  }

  void CloseOverdue() {
    const absl::Duration now = clock_->SteadyNow();
    size_t excess =
        connections_.size() - std::min<size_t>(connections_.size(), options_.max_connections);
    // The oldest is first.
    for (Connection& connection : connections_) {
      if (excess == 0 && now - connection.arrived < options_.deadline) break;
      if (excess > 0) --excess;
      if (!connection.closing) Close(connection);
    }
  }

  // The library sees a hang-up and ends the connection at its next turn.
  void Close(Connection& connection) {
    connection.closing = true;
    shutdown(connection.fd, SHUT_RDWR);
    Resume(connection);
  }

  void Resume(Connection& connection) {
    if (std::exchange(connection.waits_for, nullptr) == nullptr) return;
    MHD_resume_connection(connection.handle);
  }

  static void OnConnection(void* self, MHD_Connection* handle, void** context,
                           MHD_ConnectionNotificationCode what) {
    auto* const server = static_cast<EventServer*>(self);
    using Position = std::list<Connection>::iterator;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
      const int fd = MHD_get_connection_info(handle, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
      server->connections_.push_back(
          {.handle = handle, .fd = fd, .arrived = server->clock_->SteadyNow()});
      *context = new Position(std::prev(server->connections_.end()));
    } else {
      const std::unique_ptr<Position> position(static_cast<Position*>(*context));
      server->connections_.erase(*position);
    }
  }

  static MHD_Result OnRequest(void* self, MHD_Connection* handle, const char* path,
                              const char* method, const char*, const char*, size_t*, void**) {
    const void* const context =
        MHD_get_connection_info(handle, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
    return static_cast<EventServer*>(self)->Answer(
        **static_cast<const std::list<Connection>::iterator*>(context), path, method);
  }

  MHD_Result Answer(Connection& connection, const std::string& path, const std::string& method) {
    if (connection.closing) return MHD_NO;
    if (connection.answer.response != nullptr) return Send(connection, connection.answer);
    const bool reads = method == MHD_HTTP_METHOD_GET || method == MHD_HTTP_METHOD_HEAD;
    for (const Route& route : routes_) {
      if (!reads || route.route.path != path) continue;
      if (route.answerer == nullptr) {
        return Send(connection, MakeResponse(route.route.answer(), route.route.content_type));
      }
      connection.waits_for = route.answerer.get();
      connection.ticket = route.answerer->Ask();
      MHD_suspend_connection(connection.handle);
      return MHD_YES;
    }
    return Send(connection, not_found_);
  }

  static MHD_Result Send(const Connection& connection, const ReadyResponse& answer) {
    return MHD_queue_response(connection.handle, answer.status, answer.response.get());
  }

  // Any thread.
  void Wake() {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(wake_fd_, &one, sizeof(one));
  }

  const HttpServerOptions options_;
  const Clock* const clock_ = RealClock::Get();
  const int wake_fd_;
  int port_ = 0;
  ReadyResponse not_found_;
  std::vector<Route> routes_;
  MHD_Daemon* daemon_ = nullptr;
  // In the order of arrival. Loop's thread only.
  std::list<Connection> connections_;
  std::atomic<bool> stopping_{false};
  std::thread loop_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const std::string& address,
                                                              std::vector<HttpRoute> routes,
                                                              const HttpServerOptions& options) {
  auto server = std::make_unique<EventServer>(std::move(routes), options);
  D2G_RETURN_IF_ERROR(server->Listen(address));
  return server;
}

}  // namespace d2g::common
