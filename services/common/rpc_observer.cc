#include "services/common/rpc_observer.h"

#include <chrono>
#include <utility>

#include "absl/container/node_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/descriptor.h"
#include "services/common/status_macros.h"

namespace d2g::common {
namespace {

using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::InterceptorBatchMethods;
using grpc::experimental::ServerRpcInfo;

constexpr char kHandled[] = "d2g_rpc_handled_total";
constexpr char kHandledHelp[] = "Calls answered, by method and status code.";
constexpr char kSeconds[] = "d2g_rpc_seconds";
constexpr char kSecondsHelp[] = "Time from a unary call's arrival to its status.";
// Whatever a caller asks for that is not served: callers must not make labels.
constexpr char kOtherMethod[] = "other";

// A method that is served.
struct Method {
  std::string label;
  bool streams = false;
  // Its streams that are open; null for a unary method, or without metrics.
  prometheus::Gauge* open = nullptr;
};

class Interceptor final : public grpc::experimental::Interceptor {
 public:
  // `method` is null for one that is not served. Metrics are counted unless `metrics` is null.
  Interceptor(Metrics* metrics, CallsInFlight* calls, const Method* method)
      : metrics_(metrics),
        calls_(calls),
        method_(method),
        start_(std::chrono::steady_clock::now()) {
    calls_->Begin();
    if (method_ != nullptr && method_->open != nullptr) method_->open->Increment();
  }
  ~Interceptor() override {
    if (method_ != nullptr && method_->open != nullptr) method_->open->Decrement();
    calls_->End();
  }

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
          ->Counter(kHandled, kHandledHelp,
                    {{"method", method_ == nullptr ? kOtherMethod : method_->label},
                     {"code", absl::StatusCodeToString(code)}})
          .Increment();
      if (method_ != nullptr && !method_->streams) {
        metrics_->Histogram(kSeconds, kSecondsHelp, {{"method", method_->label}})
            .Observe(took.count());
      }
    }
    methods->Proceed();
  }

 private:
  // gRPC 1.51 answers a request that it cannot parse with UNIMPLEMENTED and no word.
  void ExplainUnreadable(InterceptorBatchMethods* methods) const {
    const grpc::Status status = methods->GetSendStatus();
    if (!unreadable_ || method_ == nullptr ||
        status.error_code() != grpc::StatusCode::UNIMPLEMENTED || !status.error_message().empty()) {
      return;
    }
    methods->ModifySendStatus(grpc::Status(
        grpc::StatusCode::INVALID_ARGUMENT,
        absl::StrCat(
            "the request of ", method_->label,
            " cannot be read: it is no such message, or one of its strings is not UTF-8")));
  }

  Metrics* const metrics_;
  CallsInFlight* const calls_;
  const Method* const method_;
  const std::chrono::steady_clock::time_point start_;
  // The request could not be parsed or, for a stream, has ended.
  bool unreadable_ = false;
};

class Factory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  Factory(Metrics* metrics, CallsInFlight* calls) : metrics_(metrics), calls_(calls) {
    // RpcServer serves health by gRPC's own service, which has no descriptor.
    Add("grpc.health.v1", "Health", "Check", /*streams=*/false);
    Add("grpc.health.v1", "Health", "Watch", /*streams=*/true);
  }

  absl::Status AddService(const std::string& name) {
    const auto* const service =
        google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(name);
    if (service == nullptr) {
      return absl::InternalError(absl::StrCat("no generated code of the service ", name));
    }
    for (int i = 0; i < service->method_count(); ++i) {
      const auto* const method = service->method(i);
      Add(service->file()->package(), service->name(), method->name(),
          method->client_streaming() || method->server_streaming());
    }
    return absl::OkStatus();
  }

  grpc::experimental::Interceptor* CreateServerInterceptor(ServerRpcInfo* info) override {
    const auto method = methods_.find(absl::string_view(info->method()));
    return new Interceptor(metrics_, calls_, method == methods_.end() ? nullptr : &method->second);
  }

 private:
  void Add(const std::string& package, const std::string& service, const std::string& name,
           bool streams) {
    Method method{.label = absl::StrCat(service, "/", name), .streams = streams};
    if (streams && metrics_ != nullptr) {
      method.open = &metrics_->Gauge("d2g_rpc_open_streams", "Streams open now, by method.",
                                     {{"method", method.label}});
    }
    methods_.emplace(absl::StrCat("/", package, ".", service, "/", name), std::move(method));
  }

  Metrics* const metrics_;
  CallsInFlight* const calls_;
  // By path, as "/d2g.store.v1.TripleService/ReadTriples". Constant once the server runs.
  absl::node_hash_map<std::string, Method> methods_;
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

absl::StatusOr<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>>
MakeRpcObserver(Metrics* metrics, CallsInFlight* calls, const std::vector<std::string>& services) {
  auto factory = std::make_unique<Factory>(metrics, calls);
  for (const std::string& service : services) D2G_RETURN_IF_ERROR(factory->AddService(service));
  return factory;
}

}  // namespace d2g::common
