#include "services/common/admin_server.h"

#include <atomic>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "httplib.h"
#include "services/common/address.h"
#include "services/common/status_macros.h"

namespace d2g::common {
namespace {

constexpr int kHttpThreads = 4;

class HttpAdminServer final : public AdminServer {
 public:
  HttpAdminServer(const Metrics* metrics, Readiness readiness) {
    server_.new_task_queue = [] { return new httplib::ThreadPool(kHttpThreads); };
    // A kept-alive connection holds one of the threads.
    server_.set_keep_alive_max_count(1);
    // Without the library's SO_REUSEPORT a port in use is an error instead of a silent share.
    server_.set_socket_options([](socket_t fd) {
      const int yes = 1;
      setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    });
    server_.Get("/metrics", [metrics](const httplib::Request&, httplib::Response& response) {
      response.set_content(metrics->Expose(), "text/plain; version=0.0.4; charset=utf-8");
    });
    server_.Get("/healthz", [](const httplib::Request&, httplib::Response& response) {
      response.set_content("ok\n", "text/plain");
    });
    server_.Get("/readyz", [readiness = std::move(readiness)](const httplib::Request&,
                                                              httplib::Response& response) {
      const absl::Status status = readiness ? readiness() : absl::OkStatus();
      response.status = status.ok() ? 200 : 503;
      response.set_content(status.ok() ? "ready\n" : absl::StrCat(status.message(), "\n"),
                           "text/plain");
    });
  }

  ~HttpAdminServer() override {
    // stop() only ends a loop that has begun.
    while (thread_.joinable() && !server_.is_running() && !ended_) std::this_thread::yield();
    server_.stop();
    if (thread_.joinable()) thread_.join();
  }

  absl::Status Listen(const HostPort& address) {
    if (address.port == 0) {
      port_ = server_.bind_to_any_port(address.host);
    } else if (server_.bind_to_port(address.host, address.port)) {
      port_ = address.port;
    }
    if (port_ <= 0) {
      const std::string text = FormatAddress(address.host, address.port);
      D2G_RETURN_IF_ERROR(ExplainListenFailure(text));
      return absl::FailedPreconditionError(absl::StrCat("cannot listen on ", text));
    }
    thread_ = std::thread([this] {
      server_.listen_after_bind();
      ended_ = true;
    });
    return absl::OkStatus();
  }

  int port() const override { return port_; }

 private:
  httplib::Server server_;
  int port_ = 0;
  std::atomic<bool> ended_{false};
  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<AdminServer>> AdminServer::Start(const std::string& address,
                                                                const Metrics* metrics,
                                                                Readiness readiness,
                                                                bool insecure) {
  D2G_RETURN_IF_ERROR(CheckListenAddress(address, insecure));
  D2G_ASSIGN_OR_RETURN(const HostPort parsed, ParseAddress(address));
  auto server = std::make_unique<HttpAdminServer>(metrics, std::move(readiness));
  D2G_RETURN_IF_ERROR(server->Listen(parsed));
  return server;
}

}  // namespace d2g::common
