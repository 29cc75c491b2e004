#include "services/store/client/triple_client.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/channel.h"
#include "services/common/deadline.h"
#include "services/common/grpc_status.h"
#include "services/common/retry.h"
#include "services/common/status_macros.h"
#include "services/dataset/latent_codec.h"
#include "services/store/client/stream_append_session.h"

namespace d2g::store {

using common::v1::IndexRange;
using v1::Triple;
using v1::TripleService;

namespace {

// One attempt of a small call; also the longest that a hung shard can hold it.
constexpr absl::Duration kAttemptTimeout = absl::Seconds(30);

// Calls `method` until it succeeds or the deadline passes. Messages name the shard's address.
template <typename Request, typename Response>
absl::StatusOr<Response> CallUnary(TripleService::Stub* stub,
                                   grpc::Status (TripleService::Stub::*method)(grpc::ClientContext*,
                                                                               const Request&,
                                                                               Response*),
                                   const Request& request, absl::Time deadline,
                                   const absl::Notification* stop, const std::string& address) {
  Response response;
  common::RetryOptions options;
  options.stop = stop;
  const absl::Status status = common::RetryUntil(
      deadline,
      [&] {
        grpc::ClientContext context;
        common::SetDeadline(&context, std::min(kAttemptTimeout, common::TimeLeft(deadline)));
        response.Clear();
        return common::FromServer((stub->*method)(&context, request, &response));
      },
      options);
  if (!status.ok()) return common::Annotate(status, absl::StrCat("store ", address));
  return response;
}

absl::StatusOr<std::vector<Triple>> Checked(const std::string& dataset,
                                            const std::vector<int64_t>& indices,
                                            v1::ReadTriplesResponse response) {
  if (response.triples_size() != static_cast<int>(indices.size())) {
    return absl::InternalError(absl::StrCat(dataset, ": asked for ", indices.size(),
                                            " triples, got ", response.triples_size()));
  }
  std::vector<Triple> triples;
  triples.reserve(indices.size());
  for (size_t i = 0; i < indices.size(); ++i) {
    Triple& triple = *response.mutable_triples(static_cast<int>(i));
    if (triple.index() != indices[i]) {
      return absl::InternalError(
          absl::StrCat(dataset, ": asked for index ", indices[i], ", got ", triple.index()));
    }
    if (dataset::LatentChecksum(triple.x()) != triple.x_checksum()) {
      return absl::DataLossError(
          absl::StrCat(dataset, " index ", triple.index(), ": x was damaged on the way"));
    }
    triples.push_back(std::move(triple));
  }
  return triples;
}

}  // namespace

TripleClient::TripleClient(common::v1::ShardAddress shard, const absl::Notification* stop)
    : shard_(std::move(shard)),
      stop_(stop),
      stub_(TripleService::NewStub(common::MakeChannel(shard_.address()))),
      append_stub_(
          TripleService::NewStub(common::MakeChannel(shard_.address(), {.own_connection = true}))) {
}

TripleClient::~TripleClient() = default;

v1::DatasetKey TripleClient::Key(const std::string& dataset) const {
  v1::DatasetKey key;
  key.set_dataset(dataset);
  key.set_shard(shard_.shard());
  key.set_store_uuid(shard_.store_uuid());
  return key;
}

absl::StatusOr<std::string> TripleClient::OpenDataset(const std::string& dataset,
                                                      const common::v1::DatasetRecipe& recipe,
                                                      absl::Time deadline) {
  v1::OpenDatasetRequest request;
  *request.mutable_key() = Key(dataset);
  *request.mutable_recipe() = recipe;
  D2G_ASSIGN_OR_RETURN(const auto response,
                       CallUnary(stub_.get(), &TripleService::Stub::OpenDataset, request, deadline,
                                 stop_, shard_.address()));
  return response.store_uuid();
}

absl::StatusOr<std::unique_ptr<AppendSession>> TripleClient::Append(const AppendTarget& target,
                                                                    absl::Time deadline) {
  v1::AppendTriplesRequest::Open open;
  *open.mutable_key() = Key(target.dataset);
  *open.mutable_range() = target.range;
  open.set_range_epoch(target.range_epoch);
  *open.mutable_producer() = target.producer;
  return OpenStreamAppendSession(append_stub_.get(), open, shard_.address(), stop_, deadline);
}

absl::StatusOr<v1::SealRangeResponse> TripleClient::SealRange(const std::string& dataset,
                                                              const IndexRange& range,
                                                              const v1::Producer& producer,
                                                              absl::Time deadline) {
  v1::SealRangeRequest request;
  *request.mutable_key() = Key(dataset);
  *request.mutable_range() = range;
  *request.mutable_producer() = producer;
  return CallUnary(stub_.get(), &TripleService::Stub::SealRange, request, deadline, stop_,
                   shard_.address());
}

absl::StatusOr<std::vector<Triple>> TripleClient::ReadTriples(const std::string& dataset,
                                                              const std::vector<int64_t>& indices,
                                                              absl::Time deadline) {
  v1::ReadTriplesRequest request;
  *request.mutable_key() = Key(dataset);
  request.mutable_indices()->Assign(indices.begin(), indices.end());
  D2G_ASSIGN_OR_RETURN(auto response, CallUnary(stub_.get(), &TripleService::Stub::ReadTriples,
                                                request, deadline, stop_, shard_.address()));
  return Checked(dataset, indices, std::move(response));
}

absl::StatusOr<std::vector<Triple>> TripleClient::ReadTriplesOnce(
    const std::string& dataset, const std::vector<int64_t>& indices, absl::Duration timeout) {
  v1::ReadTriplesRequest request;
  *request.mutable_key() = Key(dataset);
  request.mutable_indices()->Assign(indices.begin(), indices.end());
  grpc::ClientContext context;
  common::SetDeadline(&context, timeout);
  v1::ReadTriplesResponse response;
  const grpc::Status status = stub_->ReadTriples(&context, request, &response);
  if (!status.ok()) {
    return common::Annotate(common::FromServer(status), absl::StrCat("store ", shard_.address()));
  }
  return Checked(dataset, indices, std::move(response));
}

absl::StatusOr<v1::ListSealedRangesResponse> TripleClient::ListSealedRanges(
    const std::string& dataset, absl::Time deadline) {
  v1::ListSealedRangesRequest request;
  *request.mutable_key() = Key(dataset);
  return CallUnary(stub_.get(), &TripleService::Stub::ListSealedRanges, request, deadline, stop_,
                   shard_.address());
}

absl::StatusOr<v1::VerifyDatasetResponse::Summary> TripleClient::VerifyDataset(
    const std::string& dataset, const FindingCallback& finding, absl::Time deadline) {
  v1::VerifyDatasetRequest request;
  *request.mutable_key() = Key(dataset);
  grpc::ClientContext context;
  common::SetDeadline(&context, common::TimeLeft(deadline));
  const auto reader = stub_->VerifyDataset(&context, request);
  v1::VerifyDatasetResponse message;
  v1::VerifyDatasetResponse::Summary summary;
  while (reader->Read(&message)) {
    if (message.has_finding()) {
      finding(message.finding());
    } else {
      summary = message.summary();
    }
  }
  D2G_RETURN_IF_ERROR(common::Annotate(common::FromServer(reader->Finish()),
                                       absl::StrCat("store ", shard_.address())));
  return summary;
}

absl::StatusOr<int64_t> TripleClient::InvalidateRange(const std::string& dataset,
                                                      const IndexRange& range, int64_t range_epoch,
                                                      absl::Time deadline) {
  v1::InvalidateRangeRequest request;
  *request.mutable_key() = Key(dataset);
  *request.mutable_range() = range;
  request.set_range_epoch(range_epoch);
  D2G_ASSIGN_OR_RETURN(const auto response,
                       CallUnary(stub_.get(), &TripleService::Stub::InvalidateRange, request,
                                 deadline, stop_, shard_.address()));
  return response.removed();
}

absl::Status TripleClient::DropDataset(const std::string& dataset, absl::Time deadline) {
  v1::DropDatasetRequest request;
  *request.mutable_key() = Key(dataset);
  return CallUnary(stub_.get(), &TripleService::Stub::DropDataset, request, deadline, stop_,
                   shard_.address())
      .status();
}

absl::StatusOr<v1::GetStatsResponse> TripleClient::GetStats(absl::Time deadline) {
  return CallUnary(stub_.get(), &TripleService::Stub::GetStats, v1::GetStatsRequest(), deadline,
                   stop_, shard_.address());
}

}  // namespace d2g::store
