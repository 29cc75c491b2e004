// Answers GET requests on a port that strangers can reach, with libmicrohttpd.
//
// No client can keep another from being answered: one thread waits for all connections at once; a
// connection has one deadline from its arrival to the end of its answer, however busy it looks; at
// the limit of connections the oldest makes room for the next. An answer that may take time is made
// on a thread of its route, once for all who wait for it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace d2g::common {

struct HttpAnswer {
  int status = 200;
  std::string body;
};

// What GET (and HEAD) of a path answers.
struct HttpRoute {
  // "/healthz".
  std::string path;
  std::string content_type = "text/plain";
  // Whether `answer` returns at once; then it is called on the thread that serves everybody. Else
  // it is called on a thread of the route's own, and one answer may go to several clients that
  // asked before the call.
  bool immediate = false;
  std::function<HttpAnswer()> answer;
};

struct HttpServerOptions {
  // From a connection's arrival to the end of its answer.
  absl::Duration deadline = absl::Seconds(5);
  int max_connections = 128;
};

// Any other path or method is answered with 404; every connection carries one request. Thread-safe.
class HttpServer {
 public:
  // Listens on host:port (port 0: any). Fails naming the address and why.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const std::string& address,
                                                           std::vector<HttpRoute> routes,
                                                           const HttpServerOptions& options = {});
  // Closes all connections; waits for a route's call that runs.
  virtual ~HttpServer() = default;

  // The port bound.
  virtual int port() const = 0;
};

}  // namespace d2g::common
