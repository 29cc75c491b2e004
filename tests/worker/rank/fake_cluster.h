// The services that a rank talks to, in the test's process: what they answer is under its control.
#pragma once

#include <atomic>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "d2g/coordinator/v1/dataset_service.grpc.pb.h"
#include "d2g/coordinator/v1/job_service.grpc.pb.h"
#include "d2g/coordinator/v1/training_service.grpc.pb.h"
#include "d2g/store/v1/triple_service.grpc.pb.h"
#include "gtest/gtest.h"
#include "services/common/rpc_server.h"
#include "services/dataset/latent_codec.h"
#include "services/dataset/noise.h"
#include "services/dataset/prompt_order.h"

namespace d2g::rank {

// Serves every triple of a recipe: x is the noise of another seed, so any x is as good as any
// other.
class FakeShard final : public store::v1::TripleService::Service {
 public:
  explicit FakeShard(common::v1::DatasetRecipe recipe) : recipe_(std::move(recipe)) {}

  void SetDelay(absl::Duration delay) { delay_ms_ = absl::ToInt64Milliseconds(delay); }
  void SetDown(bool down) { down_ = down; }

  grpc::Status ReadTriples(grpc::ServerContext*, const store::v1::ReadTriplesRequest* request,
                           store::v1::ReadTriplesResponse* response) override {
    absl::SleepFor(absl::Milliseconds(delay_ms_.load()));
    if (down_) return {grpc::StatusCode::UNAVAILABLE, "shard is down"};
    for (const int64_t index : request->indices()) {
      std::vector<float> x(dataset::LatentElements(recipe_));
      std::vector<float> z(x.size());
      dataset::FillNoise(recipe_.seed() + 1, index, x);
      dataset::FillNoise(recipe_.seed(), index, z);
      *response->add_triples() = *dataset::MakeTriple(
          index, dataset::PromptIndexOf(recipe_.seed(), index, recipe_.prompt_count()), x, z,
          recipe_.storage_dtype());
    }
    return grpc::Status::OK;
  }

 private:
  const common::v1::DatasetRecipe recipe_;
  std::atomic<int64_t> delay_ms_{0};
  std::atomic<bool> down_{false};
};

// The coordinator's calls that ranks make. Checkpoints are compare-and-set as the real one's.
class FakeRankCoordinator final : public coordinator::v1::DatasetService::Service,
                                  public coordinator::v1::TrainingService::Service,
                                  public coordinator::v1::JobService::Service {
 public:
  FakeRankCoordinator(std::string prompts, int64_t sealed)
      : prompts_(std::move(prompts)), sealed_(sealed) {}

  void SetDown(bool down) { down_ = down; }
  // Answers everything but CommitCheckpoint.
  void SetCommitsDown(bool down) { commits_down_ = down; }
  // Refuses the snapshots of later epochs as if too few triples were sealed.
  void SetLastEpoch(int64_t epoch) { last_epoch_ = epoch; }
  int64_t snapshots_refused() const { return snapshots_refused_; }
  void SetGeneration(int64_t generation) {
    absl::MutexLock lock(&mutex_);
    generation_ = generation;
  }
  void AddShard(const std::string& address) {
    auto* shard = dataset_.add_shards();
    shard->set_shard(dataset_.shards_size() - 1);
    shard->set_address(address);
  }
  const coordinator::v1::Dataset& dataset() const { return dataset_; }
  std::vector<coordinator::v1::Checkpoint> checkpoints() const {
    absl::MutexLock lock(&mutex_);
    return checkpoints_;
  }

  grpc::Status GetOrCreateSnapshot(grpc::ServerContext*,
                                   const coordinator::v1::GetOrCreateSnapshotRequest* request,
                                   coordinator::v1::Snapshot* snapshot) override {
    if (down_) return Down();
    if (request->epoch() > last_epoch_) {
      ++snapshots_refused_;
      return {grpc::StatusCode::FAILED_PRECONDITION, "fewer than one global batch"};
    }
    snapshot->set_epoch(request->epoch());
    snapshot->add_ranges()->set_end(sealed_);
    return grpc::Status::OK;
  }
  grpc::Status GetDataset(grpc::ServerContext*, const coordinator::v1::GetDatasetRequest*,
                          coordinator::v1::Dataset* dataset) override {
    if (down_) return Down();
    *dataset = dataset_;
    return grpc::Status::OK;
  }
  grpc::Status GetPromptList(
      grpc::ServerContext*, const coordinator::v1::GetPromptListRequest*,
      grpc::ServerWriter<coordinator::v1::GetPromptListResponse>* writer) override {
    coordinator::v1::GetPromptListResponse chunk;
    chunk.set_chunk(prompts_);
    writer->Write(chunk);
    return grpc::Status::OK;
  }
  // The two that the coordinator keeps.
  grpc::Status ListCheckpoints(grpc::ServerContext*, const coordinator::v1::ListCheckpointsRequest*,
                               coordinator::v1::ListCheckpointsResponse* response) override {
    if (down_) return Down();
    absl::MutexLock lock(&mutex_);
    for (size_t i = checkpoints_.size() < 2 ? 0 : checkpoints_.size() - 2; i < checkpoints_.size();
         ++i) {
      *response->add_checkpoints() = checkpoints_[i];
    }
    return grpc::Status::OK;
  }
  grpc::Status CommitCheckpoint(grpc::ServerContext*,
                                const coordinator::v1::CommitCheckpointRequest* request,
                                coordinator::v1::CommitCheckpointResponse* response) override {
    if (down_ || commits_down_) return Down();
    absl::MutexLock lock(&mutex_);
    if (request->generation() != generation_ ||
        (!checkpoints_.empty() && request->step() <= checkpoints_.back().step())) {
      return {grpc::StatusCode::FAILED_PRECONDITION, "not the current generation or step"};
    }
    coordinator::v1::Checkpoint checkpoint;
    checkpoint.set_step(request->step());
    checkpoint.set_generation(request->generation());
    checkpoint.set_path(request->path());
    checkpoint.set_manifest_digest(request->manifest_digest());
    checkpoints_.push_back(checkpoint);
    *response->mutable_checkpoint() = checkpoint;
    if (checkpoints_.size() > 2) {
      response->add_delete_paths(checkpoints_[checkpoints_.size() - 3].path());
    }
    return grpc::Status::OK;
  }

 private:
  static grpc::Status Down() { return {grpc::StatusCode::UNAVAILABLE, "coordinator is away"}; }

  const std::string prompts_;
  const int64_t sealed_;
  std::atomic<bool> down_{false};
  std::atomic<bool> commits_down_{false};
  std::atomic<int64_t> last_epoch_{std::numeric_limits<int64_t>::max()};
  std::atomic<int64_t> snapshots_refused_{0};
  coordinator::v1::Dataset dataset_;
  mutable absl::Mutex mutex_;
  int64_t generation_ ABSL_GUARDED_BY(mutex_) = 1;
  std::vector<coordinator::v1::Checkpoint> checkpoints_ ABSL_GUARDED_BY(mutex_);
};

// One coordinator and two shards, each with a server of its own.
class FakeCluster {
 public:
  FakeCluster(const common::v1::DatasetRecipe& recipe, const std::string& prompts, int64_t sealed)
      : coordinator(prompts, sealed) {
    for (int shard = 0; shard < recipe.shard_count(); ++shard) {
      shards.push_back(std::make_unique<FakeShard>(recipe));
      servers_.push_back(*common::RpcServer::Start(
          "127.0.0.1:0", {common::Serve<store::v1::TripleService>(shards.back().get())}));
      coordinator.AddShard(servers_.back()->address());
    }
    // Three bases, one object: each is a service of its own to gRPC.
    servers_.push_back(*common::RpcServer::Start(
        "127.0.0.1:0", {common::Serve<coordinator::v1::DatasetService>(&coordinator),
                        common::Serve<coordinator::v1::TrainingService>(&coordinator),
                        common::Serve<coordinator::v1::JobService>(&coordinator)}));
  }

  const std::string& coordinator_address() const { return servers_.back()->address(); }

  FakeRankCoordinator coordinator;
  std::vector<std::unique_ptr<FakeShard>> shards;

 private:
  std::vector<std::unique_ptr<common::RpcServer>> servers_;
};

}  // namespace d2g::rank
