#include "services/store/shard_reporter.h"

#include <algorithm>
#include <random>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/common/channel.h"
#include "services/common/grpc_status.h"
#include "services/common/log.h"
#include "services/common/proto_duration.h"
#include "services/common/retry.h"
#include "services/common/status_macros.h"

namespace d2g::store {
namespace {

constexpr absl::Duration kCallTimeout = absl::Seconds(10);
// Between heartbeats, when the coordinator does not say.
constexpr absl::Duration kDefaultInterval = absl::Seconds(5);
constexpr absl::Duration kMinInterval = absl::Milliseconds(50);
constexpr absl::Duration kMaxInterval = absl::Minutes(1);
constexpr char kIncarnationKey[] = "d2g-incarnation";

}  // namespace

ShardReporter::ShardReporter(TripleStore* store, StoreMetrics* metrics,
                             const std::string& coordinator, const std::string& advertised)
    : store_(store),
      metrics_(metrics),
      coordinator_(coordinator),
      stub_(coordinator::v1::ShardService::NewStub(common::MakeChannel(coordinator))),
      outcome_(absl::UnavailableError("the coordinator has not answered yet")) {
  address_.set_shard(store->shard());
  address_.set_store_uuid(store->uuid());
  address_.set_address(advertised);
  thread_ = std::thread([this] { Run(); });
}

ShardReporter::~ShardReporter() {
  stop_.Notify();
  thread_.join();
}

absl::Status ShardReporter::LastOutcome() const {
  absl::MutexLock lock(&mutex_);
  return outcome_;
}

void ShardReporter::Run() {
  common::Backoff backoff;
  std::mt19937_64 random(std::random_device{}());
  bool was_ok = false;
  bool first = true;
  while (!stop_.HasBeenNotified()) {
    absl::Duration interval = kDefaultInterval;
    const absl::Status status = Report(&interval);
    if (first || status.ok() != was_ok) {
      if (status.ok()) {
        common::LogInfo("reporting to the coordinator", {{"coordinator", coordinator_}});
      } else {
        common::LogWarn("the coordinator does not take reports; trying again",
                        {{"coordinator", coordinator_}, {"error", status}});
      }
    }
    first = false;
    was_ok = status.ok();
    {
      absl::MutexLock lock(&mutex_);
      outcome_ = status;
    }
    if (status.ok()) {
      metrics_->coordinator_contact.Set(absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()));
      backoff.Reset();
      // Shards that started together drift apart.
      interval *= std::uniform_real_distribution<double>(0.9, 1.0)(random);
    } else {
      interval = backoff.Next();
    }
    metrics_->free_bytes.Set(static_cast<double>(store_->FreeBytes()));
    metrics_->datasets.Set(static_cast<double>(store_->Stats().size()));
    stop_.WaitForNotificationWithTimeout(interval);
  }
}

absl::Status ShardReporter::CheckIncarnation(const grpc::ClientContext& context) {
  const auto& metadata = context.GetServerInitialMetadata();
  const auto it = metadata.find(kIncarnationKey);
  if (it == metadata.end()) return absl::OkStatus();
  int64_t incarnation = 0;
  const std::string text(it->second.data(), it->second.size());
  if (!absl::SimpleAtoi(text, &incarnation) || incarnation < incarnation_) {
    return absl::UnavailableError(absl::StrCat("the coordinator at ", coordinator_,
                                               " answers with incarnation ", text, ", older than ",
                                               incarnation_));
  }
  incarnation_ = incarnation;
  return absl::OkStatus();
}

absl::Status ShardReporter::Report(absl::Duration* interval) {
  coordinator::v1::ShardHeartbeatRequest request;
  *request.mutable_shard() = address_;
  request.set_free_bytes(store_->FreeBytes());
  for (const auto& stats : store_->Stats()) {
    auto* summary = request.add_datasets();
    summary->set_dataset(stats.dataset());
    summary->set_sealed_count(stats.sealed_count());
    summary->set_digest(stats.digest());
  }
  grpc::ClientContext context;
  common::SetDeadline(&context, kCallTimeout);
  coordinator::v1::ShardHeartbeatResponse response;
  D2G_RETURN_IF_ERROR(common::FromGrpcStatus(stub_->ShardHeartbeat(&context, request, &response)));
  D2G_RETURN_IF_ERROR(CheckIncarnation(context));
  if (response.has_heartbeat_interval()) {
    *interval =
        std::clamp(common::FromProto(response.heartbeat_interval()), kMinInterval, kMaxInterval);
  }
  for (const std::string& dataset : response.drop_datasets()) {
    common::LogInfo("dropping a dataset", {{"dataset", dataset}});
    D2G_RETURN_IF_ERROR(store_->Drop(dataset));
  }
  for (const std::string& dataset : response.report_seals()) {
    D2G_RETURN_IF_ERROR(ReportSeals(dataset));
  }
  return absl::OkStatus();
}

absl::Status ShardReporter::ReportSeals(const std::string& dataset) {
  coordinator::v1::ReportSealsRequest request;
  *request.mutable_shard() = address_;
  request.set_dataset(dataset);
  const auto sealed = store_->ListSealed(dataset);
  if (sealed.ok()) {
    *request.mutable_ranges() = sealed->ranges();
    request.set_sealed_count(sealed->sealed_count());
    request.set_digest(sealed->digest());
  } else if (!absl::IsNotFound(sealed.status())) {
    return sealed.status();
  }  // Else: nothing of it is here, and the coordinator should know.
  grpc::ClientContext context;
  common::SetDeadline(&context, kCallTimeout);
  coordinator::v1::ReportSealsResponse response;
  D2G_RETURN_IF_ERROR(common::FromGrpcStatus(stub_->ReportSeals(&context, request, &response)));
  return CheckIncarnation(context);
}

}  // namespace d2g::store
