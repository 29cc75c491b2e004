#include "services/common/rpc_observer.h"

#include <chrono>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
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
  Interceptor(Metrics* metrics, CallsInFlight* calls, const char* method)
      : metrics_(metrics),
        calls_(calls),
        method_(ShortMethod(method)),
        start_(std::chrono::steady_clock::now()) {
    calls_->Begin();
  }
  ~Interceptor() override { calls_->End(); }

  void Intercept(InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_MESSAGE) &&
        methods->GetRecvMessage() == nullptr) {
      unreadable_ = true;
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      ExplainUnreadable(methods);
    }
    if (metrics_ != nullptr &&
        methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
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
  // gRPC 1.51 answers a request that it cannot parse with UNIMPLEMENTED and no word.
  void ExplainUnreadable(InterceptorBatchMethods* methods) const {
    const grpc::Status status = methods->GetSendStatus();
    if (!unreadable_ || status.error_code() != grpc::StatusCode::UNIMPLEMENTED ||
        !status.error_message().empty()) {
      return;
    }
    methods->ModifySendStatus(grpc::Status(
        grpc::StatusCode::INVALID_ARGUMENT,
        absl::StrCat(
            "the request of ", method_,
            " cannot be read: it is no such message, or one of its strings is not UTF-8")));
  }

  Metrics* const metrics_;
  CallsInFlight* const calls_;
  const std::string method_;
  const std::chrono::steady_clock::time_point start_;
  // No message could be had from what came; for a stream also when it has ended.
  bool unreadable_ = false;
};

class Factory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  Factory(Metrics* metrics, CallsInFlight* calls) : metrics_(metrics), calls_(calls) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(ServerRpcInfo* info) override {
    return new Interceptor(metrics_, calls_, info->method());
  }

 private:
  Metrics* const metrics_;
  CallsInFlight* const calls_;
};

}  // namespace

void CallsInFlight::Begin() {
  absl::MutexLock lock(&mutex_);
  ++count_;
}

void CallsInFlight::End() {
  absl::MutexLock lock(&mutex_);
  --count_;
}

bool CallsInFlight::WaitForNone(absl::Duration timeout) {
  const auto none = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return count_ == 0; };
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithTimeout(absl::Condition(&none), timeout);
}

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeRpcObserver(
    Metrics* metrics, CallsInFlight* calls) {
  return std::make_unique<Factory>(metrics, calls);
}

}  // namespace d2g::common
