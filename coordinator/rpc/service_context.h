// What the RPC shells share, and how a unary call is answered.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/client/client.h"
#include "coordinator/decider/committer.h"
#include "coordinator/decider/coordinator.h"
#include "coordinator/rows/row_store.h"
#include "google/protobuf/empty.pb.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "services/common/grpc_status.h"
#include "services/common/path_policy.h"
#include "services/common/thread_pool.h"

namespace d2g::coordinator {

class PromptUploads;
class WatchHub;

// Nothing is owned; all must outlive the services.
struct ServiceContext {
  Coordinator* coordinator = nullptr;
  Committer* committer = nullptr;
  RowStore* store = nullptr;
  common::ThreadPool* pool = nullptr;  // for what reads or writes files
  WatchHub* watches = nullptr;
  PromptUploads* uploads = nullptr;
  const common::PathPolicy* paths = nullptr;
  uint64_t incarnation = 0;
};

// Every reply says which start of the coordinator it comes from.
inline void SendIncarnation(const ServiceContext& services, grpc::CallbackServerContext* context) {
  context->AddInitialMetadata(kIncarnationMetadata, absl::StrCat(services.incarnation));
}

// Puts a decision's result into the response.
template <typename Response>
absl::Status Take(absl::StatusOr<Response> result, Response* response) {
  if (!result.ok()) return result.status();
  *response = *std::move(result);
  return absl::OkStatus();
}
inline absl::Status Take(absl::Status result, google::protobuf::Empty*) { return result; }

// Finishes `reactor` with the outcome of decision(state, now) once everything it may rest on is
// durable. Does not block.
template <typename Response, typename Decision>
void FinishWhenDurable(const ServiceContext& services, grpc::ServerUnaryReactor* reactor,
                       Response* response, Decision&& decision) {
  auto decided = services.coordinator->Decide(std::forward<Decision>(decision));
  grpc::Status status = common::ToGrpcStatus(Take(std::move(decided.result), response));
  services.committer->WhenDurable(
      decided.sequence, [reactor, status = std::move(status)](const absl::Status& durable) {
        reactor->Finish(durable.ok() ? status : common::ToGrpcStatus(durable));
      });
}

// A whole unary call that only decides.
template <typename Response, typename Decision>
grpc::ServerUnaryReactor* Answer(const ServiceContext& services,
                                 grpc::CallbackServerContext* context, Response* response,
                                 Decision&& decision) {
  SendIncarnation(services, context);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  FinishWhenDurable(services, reactor, response, std::forward<Decision>(decision));
  return reactor;
}

}  // namespace d2g::coordinator
