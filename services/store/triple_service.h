// The gRPC shell of a shard: checks the request's guard, hands the work to a pool and turns
// statuses into gRPC's. No rule of the store lives here.
#pragma once

#include "absl/time/time.h"
#include "d2g/store/v1/triple_service.grpc.pb.h"
#include "services/common/thread_pool.h"
#include "services/store/store_metrics.h"
#include "services/store/triple_store.h"

namespace d2g::store {

struct TripleServiceOptions {
  // Threads that wait for fsyncs; as many appends can share one.
  int append_threads = 16;
  // Threads that read triples.
  int read_threads = 16;
  // Calls that wait for a thread, per pool; more are answered UNAVAILABLE.
  int max_queued = 1024;
};

// Thread-safe.
class TripleServiceImpl final : public v1::TripleService::CallbackService {
 public:
  // `store` and `metrics` must outlive the service; the service, the server.
  TripleServiceImpl(TripleStore* store, StoreMetrics* metrics,
                    const TripleServiceOptions& options = {});
  ~TripleServiceImpl() override;

  grpc::ServerUnaryReactor* OpenDataset(grpc::CallbackServerContext* context,
                                        const v1::OpenDatasetRequest* request,
                                        v1::OpenDatasetResponse* response) override;
  grpc::ServerBidiReactor<v1::AppendTriplesRequest, v1::AppendTriplesResponse>* AppendTriples(
      grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* SealRange(grpc::CallbackServerContext* context,
                                      const v1::SealRangeRequest* request,
                                      v1::SealRangeResponse* response) override;
  grpc::ServerUnaryReactor* ReadTriples(grpc::CallbackServerContext* context,
                                        const v1::ReadTriplesRequest* request,
                                        v1::ReadTriplesResponse* response) override;
  grpc::ServerUnaryReactor* ListSealedRanges(grpc::CallbackServerContext* context,
                                             const v1::ListSealedRangesRequest* request,
                                             v1::ListSealedRangesResponse* response) override;
  grpc::ServerWriteReactor<v1::VerifyDatasetResponse>* VerifyDataset(
      grpc::CallbackServerContext* context, const v1::VerifyDatasetRequest* request) override;
  grpc::ServerUnaryReactor* InvalidateRange(grpc::CallbackServerContext* context,
                                            const v1::InvalidateRangeRequest* request,
                                            v1::InvalidateRangeResponse* response) override;
  grpc::ServerUnaryReactor* DropDataset(grpc::CallbackServerContext* context,
                                        const v1::DropDatasetRequest* request,
                                        v1::DropDatasetResponse* response) override;
  grpc::ServerUnaryReactor* GetStats(grpc::CallbackServerContext* context,
                                     const v1::GetStatsRequest* request,
                                     v1::GetStatsResponse* response) override;

 private:
  // Runs `work` on a pool and ends the call with the status it returns.
  template <typename Work>
  grpc::ServerUnaryReactor* RunOn(common::ThreadPool* pool, grpc::CallbackServerContext* context,
                                  Work work);
  absl::Status Read(const v1::ReadTriplesRequest& request, v1::ReadTriplesResponse* response) const;

  TripleStore* const store_;
  StoreMetrics* const metrics_;
  const absl::Time start_time_;
  // Last: their threads use the members above.
  common::ThreadPool verify_pool_;
  common::ThreadPool read_pool_;
  common::ThreadPool append_pool_;
};

}  // namespace d2g::store
