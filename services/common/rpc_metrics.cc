#include "services/common/rpc_metrics.h"

#include <chrono>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace d2g::common {
namespace {

using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::InterceptorBatchMethods;
using grpc::experimental::ServerRpcInfo;

// "/d2g.store.v1.TripleService/ReadTriples" to "TripleService/ReadTriples".
std::string ShortMethod(absl::string_view method) {
  const size_t slash = method.rfind('/');
  if (slash == absl::string_view::npos) return std::string(method);
  const size_t dot = method.rfind('.', slash);
  return std::string(method.substr(dot == absl::string_view::npos ? 1 : dot + 1));
}

class Interceptor final : public grpc::experimental::Interceptor {
 public:
  Interceptor(Metrics* metrics, const char* method)
      : metrics_(metrics), method_(ShortMethod(method)), start_(std::chrono::steady_clock::now()) {}

  void Intercept(InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start_;
      const auto code = static_cast<absl::StatusCode>(methods->GetSendStatus().error_code());
      metrics_
          ->Counter("d2g_rpc_handled_total", "Calls answered, by method and status code.",
                    {{"method", method_}, {"code", absl::StatusCodeToString(code)}})
          .Increment();
      metrics_
          ->Histogram("d2g_rpc_seconds", "Time from a call's arrival to its status.",
                      {{"method", method_}})
          .Observe(took.count());
    }
    methods->Proceed();
  }

 private:
  Metrics* const metrics_;
  const std::string method_;
  const std::chrono::steady_clock::time_point start_;
};

class Factory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit Factory(Metrics* metrics) : metrics_(metrics) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(ServerRpcInfo* info) override {
    return new Interceptor(metrics_, info->method());
  }

 private:
  Metrics* const metrics_;
};

}  // namespace

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeRpcMetrics(
    Metrics* metrics) {
  return std::make_unique<Factory>(metrics);
}

}  // namespace d2g::common
