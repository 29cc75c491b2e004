#include "services/common/admin_server.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/address.h"
#include "services/common/status_macros.h"

namespace d2g::common {

absl::StatusOr<std::unique_ptr<AdminServer>> AdminServer::Start(const std::string& address,
                                                                const Metrics* metrics,
                                                                Readiness readiness,
                                                                bool insecure) {
  D2G_RETURN_IF_ERROR(CheckListenAddress(address, insecure));
  std::unique_ptr<AdminServer> server(new AdminServer());
  const auto ready = [stopping = &server->stopping_, readiness = std::move(readiness)] {
    absl::Status status = absl::OkStatus();
    if (*stopping) {
      status = absl::UnavailableError("is stopping");
    } else if (readiness) {
      status = readiness();
    }
    return status.ok() ? HttpAnswer{200, "ready\n"}
                       : HttpAnswer{503, absl::StrCat(status.message(), "\n")};
  };
  D2G_ASSIGN_OR_RETURN(
      server->http_,
      HttpServer::Start(address,
                        {{.path = "/healthz",
                          .immediate = true,
                          .answer = [] { return HttpAnswer{.body = "ok\n"}; }},
                         {.path = "/readyz", .answer = ready},
                         {.path = "/metrics",
                          .content_type = "text/plain; version=0.0.4; charset=utf-8",
                          .answer = [metrics] { return HttpAnswer{.body = metrics->Expose()}; }}}));
  return server;
}

}  // namespace d2g::common
