#include "services/store/triple_service.h"

#include <utility>

#include "absl/time/clock.h"

#include "absl/strings/str_cat.h"
#include "services/common/grpc_status.h"
#include "services/common/status_macros.h"
#include "services/store/append_reactor.h"
#include "services/store/client/append_limits.h"
#include "services/store/dataset_key.h"
#include "services/store/verify_reactor.h"

namespace d2g::store {

using grpc::CallbackServerContext;
using grpc::ServerUnaryReactor;

namespace {

constexpr int kVerifyThreads = 1;
constexpr int kMaxQueuedVerifications = 4;

}  // namespace

TripleServiceImpl::TripleServiceImpl(TripleStore* store, StoreMetrics* metrics,
                                     const TripleServiceOptions& options)
    : store_(store),
      metrics_(metrics),
      start_time_(absl::Now()),
      verify_pool_("verify", kVerifyThreads, kMaxQueuedVerifications),
      read_pool_("read", options.read_threads, options.max_queued),
      append_pool_("append", options.append_threads, options.max_queued) {}

TripleServiceImpl::~TripleServiceImpl() = default;

template <typename Work>
ServerUnaryReactor* TripleServiceImpl::RunOn(common::ThreadPool* pool,
                                             CallbackServerContext* context, Work work) {
  ServerUnaryReactor* const reactor = context->DefaultReactor();
  metrics_->pool_queue.Set(append_pool_.queued() + read_pool_.queued());
  const bool scheduled = pool->TrySchedule(
      [reactor, work = std::move(work)] { reactor->Finish(common::ToGrpcStatus(work())); });
  if (!scheduled) {
    reactor->Finish(
        common::ToGrpcStatus(absl::UnavailableError("the shard is busy: its queue is full")));
  }
  return reactor;
}

ServerUnaryReactor* TripleServiceImpl::OpenDataset(CallbackServerContext* context,
                                                   const v1::OpenDatasetRequest* request,
                                                   v1::OpenDatasetResponse* response) {
  return RunOn(&append_pool_, context, [this, request, response]() -> absl::Status {
    D2G_RETURN_IF_ERROR(CheckKey(request->key(), *store_));
    D2G_RETURN_IF_ERROR(store_->OpenDataset(request->key().dataset(), request->recipe()));
    response->set_store_uuid(store_->uuid());
    return absl::OkStatus();
  });
}

grpc::ServerBidiReactor<v1::AppendTriplesRequest, v1::AppendTriplesResponse>*
TripleServiceImpl::AppendTriples(CallbackServerContext*) {
  return new AppendReactor(store_, &append_pool_, metrics_);
}

ServerUnaryReactor* TripleServiceImpl::SealRange(CallbackServerContext* context,
                                                 const v1::SealRangeRequest* request,
                                                 v1::SealRangeResponse* response) {
  return RunOn(&append_pool_, context, [this, request, response]() -> absl::Status {
    D2G_RETURN_IF_ERROR(CheckKey(request->key(), *store_));
    D2G_ASSIGN_OR_RETURN(
        *response, store_->Seal(request->key().dataset(), request->range(), request->producer()));
    return absl::OkStatus();
  });
}

absl::Status TripleServiceImpl::Read(const v1::ReadTriplesRequest& request,
                                     v1::ReadTriplesResponse* response) const {
  D2G_RETURN_IF_ERROR(CheckKey(request.key(), *store_));
  if (request.indices_size() < 1 || request.indices_size() > kMaxReadIndices) {
    return absl::InvalidArgumentError(absl::StrCat("read asks for ", request.indices_size(),
                                                   " indices; it must be 1 to ", kMaxReadIndices));
  }
  int64_t bytes = 0;
  for (const int64_t index : request.indices()) {
    D2G_ASSIGN_OR_RETURN(*response->add_triples(), store_->Read(request.key().dataset(), index));
    bytes += static_cast<int64_t>(response->triples(response->triples_size() - 1).x().size());
    if (bytes > kMaxReadBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("read asks for more than ", kMaxReadBytes, " bytes: ask for fewer indices"));
    }
  }
  return absl::OkStatus();
}

ServerUnaryReactor* TripleServiceImpl::ReadTriples(CallbackServerContext* context,
                                                   const v1::ReadTriplesRequest* request,
                                                   v1::ReadTriplesResponse* response) {
  return RunOn(&read_pool_, context,
               [this, request, response] { return Read(*request, response); });
}

ServerUnaryReactor* TripleServiceImpl::ListSealedRanges(CallbackServerContext* context,
                                                        const v1::ListSealedRangesRequest* request,
                                                        v1::ListSealedRangesResponse* response) {
  return RunOn(&read_pool_, context, [this, request, response]() -> absl::Status {
    D2G_RETURN_IF_ERROR(CheckKey(request->key(), *store_));
    D2G_ASSIGN_OR_RETURN(*response, store_->ListSealed(request->key().dataset()));
    return absl::OkStatus();
  });
}

grpc::ServerWriteReactor<v1::VerifyDatasetResponse>* TripleServiceImpl::VerifyDataset(
    CallbackServerContext*, const v1::VerifyDatasetRequest* request) {
  return new VerifyReactor(store_, &verify_pool_, request->key());
}

ServerUnaryReactor* TripleServiceImpl::InvalidateRange(CallbackServerContext* context,
                                                       const v1::InvalidateRangeRequest* request,
                                                       v1::InvalidateRangeResponse* response) {
  return RunOn(&append_pool_, context, [this, request, response]() -> absl::Status {
    D2G_RETURN_IF_ERROR(CheckKey(request->key(), *store_));
    D2G_ASSIGN_OR_RETURN(
        const int64_t removed,
        store_->Invalidate(request->key().dataset(), request->range(), request->range_epoch()));
    response->set_removed(removed);
    return absl::OkStatus();
  });
}

ServerUnaryReactor* TripleServiceImpl::DropDataset(CallbackServerContext* context,
                                                   const v1::DropDatasetRequest* request,
                                                   v1::DropDatasetResponse*) {
  return RunOn(&append_pool_, context, [this, request]() -> absl::Status {
    D2G_RETURN_IF_ERROR(CheckKey(request->key(), *store_));
    return store_->Drop(request->key().dataset());
  });
}

ServerUnaryReactor* TripleServiceImpl::GetStats(CallbackServerContext* context,
                                                const v1::GetStatsRequest*,
                                                v1::GetStatsResponse* response) {
  return RunOn(&read_pool_, context, [this, response] {
    response->set_store_uuid(store_->uuid());
    response->set_shard(store_->shard());
    for (auto& stats : store_->Stats()) *response->add_datasets() = std::move(stats);
    response->set_free_bytes(store_->FreeBytes());
    response->mutable_start_time()->set_seconds(absl::ToUnixSeconds(start_time_));
    return absl::OkStatus();
  });
}

}  // namespace d2g::store
