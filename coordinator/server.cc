#include "coordinator/server.h"

#include <random>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "coordinator/decider/cluster_metrics.h"
#include "coordinator/decider/committer.h"
#include "coordinator/decider/coordinator.h"
#include "coordinator/rows/limits.h"
#include "coordinator/rows/row_store.h"
#include "coordinator/rpc/dataset_service.h"
#include "coordinator/rpc/job_service.h"
#include "coordinator/rpc/job_watch.h"
#include "coordinator/rpc/prompt_streams.h"
#include "coordinator/rpc/service_context.h"
#include "coordinator/rpc/shard_service.h"
#include "coordinator/rpc/task_service.h"
#include "coordinator/rpc/training_service.h"
#include "services/common/address.h"
#include "services/common/admin_server.h"
#include "services/common/file_io.h"
#include "services/common/log.h"
#include "services/common/metrics.h"
#include "services/common/rpc_server.h"
#include "services/common/status_macros.h"
#include "services/common/thread_pool.h"

namespace d2g::coordinator {
namespace {

constexpr int kPoolThreads = 4;
constexpr int kPoolQueue = 256;
constexpr absl::Duration kMinLease = absl::Seconds(1);
constexpr absl::Duration kMaxLease = absl::Hours(24);

absl::Status CheckOptions(const CoordinatorServerOptions& options) {
  if (options.data_dir.empty()) return absl::InvalidArgumentError("--data-dir: is required");
  if (options.shards < 1 || options.shards > kMaxShards) {
    return absl::InvalidArgumentError(
        absl::StrCat("--shards: ", options.shards, " is not from 1 to ", kMaxShards));
  }
  if (options.lease_duration < kMinLease || options.lease_duration > kMaxLease) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--lease-duration: ", absl::FormatDuration(options.lease_duration), " is not from ",
        absl::FormatDuration(kMinLease), " to ", absl::FormatDuration(kMaxLease)));
  }
  // A port that is taken must not leave a trace in the data folder.
  for (const std::string& address : {options.listen, options.admin_address}) {
    D2G_RETURN_IF_ERROR(common::CheckListenAddress(address, options.insecure));
    D2G_RETURN_IF_ERROR(common::ExplainListenFailure(address));
  }
  return absl::OkStatus();
}

// Eight characters that are easy to type and to tell apart.
std::function<std::string()> RandomJobIds() {
  return [random = std::mt19937_64((static_cast<uint64_t>(std::random_device()()) << 32) ^
                                   std::random_device()())]() mutable {
    constexpr char kAlphabet[] = "0123456789abcdefghjkmnpqrstvwxyz";
    std::string id;
    for (int i = 0; i < 8; ++i) id += kAlphabet[random() % 32];
    return id;
  };
}

class Server final : public CoordinatorServer {
 public:
  Server() : watches_(&services_) {}
  ~Server() override { Stop(absl::ZeroDuration()); }

  absl::Status Start(const CoordinatorServerOptions& options) {
    D2G_RETURN_IF_ERROR(CheckOptions(options));
    const common::Clock* clock =
        options.clock == nullptr ? common::RealClock::Get() : options.clock;
    D2G_ASSIGN_OR_RETURN(store_, RowStore::Open(options.data_dir, options.shards));
    RowChanges rows;
    D2G_RETURN_IF_ERROR(store_->Scan([&rows](absl::string_view key, const std::string& value) {
      rows.push_back({std::string(key), value});
      return absl::OkStatus();
    }));
    cluster_metrics_.incarnation().Set(static_cast<double>(store_->incarnation()));
    committer_ = std::make_unique<Committer>(Committer::Hooks{
        .write = [this](const std::vector<RowChanges>& groups) { return store_->Commit(groups); },
        .on_failure =
            [](const absl::Status& status) {
              common::LogError("rows cannot be written; stopping", {{"status", status}});
            },
        .seconds = &cluster_metrics_.commit_seconds(),
        .rows = &cluster_metrics_.rows_written()});
    ClusterOptions cluster;
    cluster.shard_count = options.shards;
    cluster.lease_duration = options.lease_duration;
    cluster.gang = options.gang;
    cluster.incarnation = store_->incarnation();
    cluster.new_job_id = RandomJobIds();
    coordinator_ =
        Coordinator::Create(std::move(cluster), rows, committer_.get(), clock, &cluster_metrics_);
    D2G_RETURN_IF_ERROR(FinishRepairs(options.data_dir));
    pool_ = std::make_unique<common::ThreadPool>("coord-files", kPoolThreads, kPoolQueue);
    uploads_ = std::make_unique<PromptUploads>(&services_, clock);
    paths_ = options.paths;
    D2G_ASSIGN_OR_RETURN(paths_.keep_out.emplace_back(), common::AbsolutePath(options.data_dir));
    services_ = {coordinator_.get(), committer_.get(), store_.get(), pool_.get(),
                 &watches_,          uploads_.get(),   &paths_,      store_->incarnation()};
    jobs_ = std::make_unique<JobServiceShell>(services_);
    datasets_ = std::make_unique<DatasetServiceShell>(services_);
    tasks_ = std::make_unique<TaskServiceShell>(services_);
    training_ = std::make_unique<TrainingServiceShell>(services_);
    shards_ = std::make_unique<ShardServiceShell>(services_);
    common::RpcServerOptions rpc;
    rpc.insecure = options.insecure;
    rpc.metrics = &metrics_;
    D2G_ASSIGN_OR_RETURN(
        rpc_, common::RpcServer::Start(options.listen,
                                       {common::Serve<v1::JobService>(jobs_.get()),
                                        common::Serve<v1::DatasetService>(datasets_.get()),
                                        common::Serve<v1::TaskService>(tasks_.get()),
                                        common::Serve<v1::TrainingService>(training_.get()),
                                        common::Serve<v1::ShardService>(shards_.get())},
                                       rpc));
    ticker_ = std::thread([this] { RunTicker(); });
    D2G_ASSIGN_OR_RETURN(admin_, common::AdminServer::Start(
                                     options.admin_address, &metrics_,
                                     [this] { return committer_->status(); }, options.insecure));
    common::LogInfo("coordinator serves", {{"address", rpc_->address()},
                                           {"data_dir", options.data_dir},
                                           {"rows", rows.size()},
                                           {"incarnation", store_->incarnation()}});
    return absl::OkStatus();
  }

  int port() const override { return rpc_->port(); }
  int admin_port() const override { return admin_->port(); }
  const std::string& address() const override { return rpc_->address(); }
  uint64_t incarnation() const override { return store_->incarnation(); }
  absl::Status status() const override { return committer_->status(); }

  void Stop(absl::Duration grace) override {
    if (stopped_) return;
    stopped_ = true;
    if (admin_ != nullptr) admin_->SetStopping();
    watches_.Stop();
    if (rpc_ != nullptr) rpc_->Shutdown(grace);
    stop_ticker_.Notify();
    if (ticker_.joinable()) ticker_.join();
  }

 private:
  // After a start that could not use every row: what takes the disk to repair, and the operator's
  // figures.
  absl::Status FinishRepairs(const std::string& data_dir) {
    const auto missing = coordinator_->Decide(
        [](ClusterState& state, Moment) { return state.MissingPromptLists(); });
    int64_t last = missing.sequence;
    for (const std::string& digest : missing.result) {
      const auto row = RemakePromptListRow(*store_, digest);
      if (!row.ok()) {
        common::LogError("a prompt list that jobs need is gone; upload it again",
                         {{"digest", digest}, {"error", row.status()}});
        continue;
      }
      last = coordinator_
                 ->Decide([&](ClusterState& state, Moment) {
                   state.AddPromptList(digest, *row);
                   return true;
                 })
                 .sequence;
    }
    D2G_RETURN_IF_ERROR(committer_->WaitDurable(last));
    D2G_ASSIGN_OR_RETURN(const int64_t set_aside, store_->CountSetAside());
    cluster_metrics_.rows_set_aside().Set(static_cast<double>(set_aside));
    if (set_aside > 0) {
      common::LogWarn("rows that could not be used are kept aside",
                      {{"rows", set_aside}, {"data_dir", data_dir}});
    }
    return absl::OkStatus();
  }

  void RunTicker() {
    while (!stop_ticker_.WaitForNotificationWithTimeout(kTick)) {
      coordinator_->Tick();
      watches_.Poke();
      uploads_->CancelOverdue();
    }
  }

  // What is below may use what is above: destruction goes from the bottom.
  common::Metrics metrics_{"d2g-coordinator"};
  ClusterMetrics cluster_metrics_{&metrics_};
  std::unique_ptr<RowStore> store_;
  std::unique_ptr<Committer> committer_;
  std::unique_ptr<Coordinator> coordinator_;
  common::PathPolicy paths_;
  ServiceContext services_;
  WatchHub watches_;
  std::unique_ptr<PromptUploads> uploads_;
  std::unique_ptr<common::ThreadPool> pool_;
  std::unique_ptr<JobServiceShell> jobs_;
  std::unique_ptr<DatasetServiceShell> datasets_;
  std::unique_ptr<TaskServiceShell> tasks_;
  std::unique_ptr<TrainingServiceShell> training_;
  std::unique_ptr<ShardServiceShell> shards_;
  std::unique_ptr<common::RpcServer> rpc_;
  absl::Notification stop_ticker_;
  std::thread ticker_;
  std::unique_ptr<common::AdminServer> admin_;
  bool stopped_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CoordinatorServer>> CoordinatorServer::Start(
    const CoordinatorServerOptions& options) {
  auto server = std::make_unique<Server>();
  D2G_RETURN_IF_ERROR(server->Start(options));
  return server;
}

}  // namespace d2g::coordinator
