// What one shard does on this machine: durable appends and random reads, in the process and over
// gRPC on loopback, at the latent sizes of the demo (512 B) and of Stable Diffusion 1.5 (32 KiB);
// and what a worker's CPU does for each triple beside the networks.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "benchmark/benchmark.h"
#include "services/dataset/latent_codec.h"
#include "services/dataset/noise.h"
#include "services/store/client/triple_client.h"
#include "services/store/store_app.h"
#include "tests/testing/temp_dir.h"

namespace d2g::store {
namespace {

using common::v1::DatasetRecipe;
using v1::Triple;

constexpr char kName[] = "datasets/bench";
constexpr int kBlockSize = 4096;
constexpr int kBatch = 64;

// `side` 8: 512 B, 64: 32 KiB.
DatasetRecipe Recipe(int side) {
  DatasetRecipe recipe;
  recipe.set_prompt_count(1);
  recipe.set_latent_channels(4);
  recipe.set_latent_height(side);
  recipe.set_latent_width(side);
  recipe.set_storage_dtype(common::v1::DTYPE_FP16);
  recipe.set_block_size(kBlockSize);
  recipe.set_shard_count(1);
  return recipe;
}

// A shard in a fresh folder, its process and a client.
struct Shard {
  explicit Shard(int side) : recipe(Recipe(side)) {
    StoreAppOptions options;
    options.database.folder = dir.File("data");
    options.store.min_free_bytes = 0;
    options.store.min_free_share = 0;
    app = StoreApp::Start(options).value();
    common::v1::ShardAddress address;
    address.set_address("127.0.0.1:" + std::to_string(app->grpc_port()));
    client = std::make_unique<TripleClient>(address);
    client->OpenDataset(kName, recipe, absl::InfiniteFuture()).value();
    const std::vector<float> x(static_cast<size_t>(dataset::LatentElements(recipe)), 0.5F);
    triple = dataset::MakeTriple(0, 0, x, x, recipe.storage_dtype()).value();
  }

  std::vector<Triple> Batch(int64_t first) const {
    std::vector<Triple> triples(kBatch, triple);
    for (int k = 0; k < kBatch; ++k) triples[static_cast<size_t>(k)].set_index(first + k);
    return triples;
  }

  // Appends whole batches from index 0 until `count` triples are durable.
  void Fill(int64_t count) {
    for (int64_t block = 0; block * kBlockSize < count; ++block) {
      common::v1::IndexRange range;
      range.set_begin(block * kBlockSize);
      range.set_end((block + 1) * kBlockSize);
      auto session =
          client->Append({.dataset = kName, .range = range}, absl::InfiniteFuture()).value();
      for (int64_t i = range.begin(); i < std::min(range.end(), count); i += kBatch) {
        if (!session->Write(Batch(i), absl::InfiniteFuture()).ok()) std::abort();
      }
      if (!session->Finish(absl::InfiniteFuture()).ok()) std::abort();
    }
  }

  testing::TempDir dir;
  DatasetRecipe recipe;
  Triple triple;
  std::unique_ptr<StoreApp> app;
  std::unique_ptr<TripleClient> client;
};

std::unique_ptr<Shard> shard;        // NOLINT: shared by the threads of one benchmark.
std::atomic<int64_t> next_block{0};  // NOLINT

// Threads come here after the first one may have taken the shard down.
void ReportRates(benchmark::State& state, int64_t triples) {
  state.SetItemsProcessed(triples);
  state.SetBytesProcessed(triples * dataset::LatentBytes(Recipe(static_cast<int>(state.range(0)))));
}

// One session a thread, each on blocks of its own: durable appends over gRPC.
void BM_Append(benchmark::State& state) {
  if (state.thread_index() == 0) {
    shard = std::make_unique<Shard>(static_cast<int>(state.range(0)));
    next_block = 0;
  }
  int64_t appended = 0;
  for (auto _ : state) {
    common::v1::IndexRange range;
    range.set_begin(next_block++ * kBlockSize);
    range.set_end(range.begin() + kBlockSize);
    auto session =
        shard->client->Append({.dataset = kName, .range = range}, absl::InfiniteFuture()).value();
    for (int64_t i = range.begin(); i < range.begin() + 16 * kBatch; i += kBatch) {
      if (!session->Write(shard->Batch(i), absl::InfiniteFuture()).ok()) std::abort();
      appended += kBatch;
    }
    if (!session->Finish(absl::InfiniteFuture()).ok()) std::abort();
  }
  ReportRates(state, appended);
  if (state.thread_index() == 0) shard.reset();
}

// Random single reads in the process: what the disk path can do.
void BM_Read(benchmark::State& state) {
  const int64_t count = state.range(0) == 8 ? 65536 : 8192;
  if (state.thread_index() == 0) {
    shard = std::make_unique<Shard>(static_cast<int>(state.range(0)));
    shard->Fill(count);
  }
  std::mt19937_64 random(static_cast<uint64_t>(state.thread_index()));
  int64_t read = 0;
  for (auto _ : state) {
    auto triple = shard->app->store().Read(
        kName, static_cast<int64_t>(random() % static_cast<uint64_t>(count)));
    if (!triple.ok()) std::abort();
    benchmark::DoNotOptimize(triple);
    ++read;
  }
  ReportRates(state, read);
  if (state.thread_index() == 0) shard.reset();
}

// Random calls of 16 indices over gRPC, as a trainer's read-ahead makes them.
void BM_ReadCall(benchmark::State& state) {
  const int64_t count = state.range(0) == 8 ? 65536 : 8192;
  if (state.thread_index() == 0) {
    shard = std::make_unique<Shard>(static_cast<int>(state.range(0)));
    shard->Fill(count);
  }
  std::mt19937_64 random(static_cast<uint64_t>(state.thread_index()));
  int64_t read = 0;
  std::vector<int64_t> indices(16);
  for (auto _ : state) {
    for (int64_t& index : indices) {
      index = static_cast<int64_t>(random() % static_cast<uint64_t>(count));
    }
    if (!shard->client->ReadTriples(kName, indices, absl::InfiniteFuture()).ok()) std::abort();
    read += 16;
  }
  ReportRates(state, read);
  if (state.thread_index() == 0) shard.reset();
}

// A worker draws the noise of the next batch while the GPU ends this one.
void BM_DrawNoise(benchmark::State& state) {
  std::vector<float> z(
      static_cast<size_t>(dataset::LatentElements(Recipe(static_cast<int>(state.range(0))))));
  int64_t index = 0;
  for (auto _ : state) {
    dataset::FillNoise(/*seed=*/1, index++, z);
    benchmark::DoNotOptimize(z.data());
  }
  ReportRates(state, index);
}

// A worker checks and encodes a batch while the GPU solves the next.
void BM_MakeTriple(benchmark::State& state) {
  const DatasetRecipe recipe = Recipe(static_cast<int>(state.range(0)));
  std::vector<float> z(static_cast<size_t>(dataset::LatentElements(recipe)));
  dataset::FillNoise(/*seed=*/1, 0, z);
  int64_t made = 0;
  for (auto _ : state) {
    const Triple triple = dataset::MakeTriple(made++, 0, z, z, recipe.storage_dtype()).value();
    if (dataset::FindNonFinite(triple.x(), recipe.storage_dtype()) >= 0) std::abort();
  }
  ReportRates(state, made);
}

BENCHMARK(BM_DrawNoise)->Arg(8)->Arg(64);
BENCHMARK(BM_MakeTriple)->Arg(8)->Arg(64);
BENCHMARK(BM_Append)->Arg(8)->Arg(64)->Threads(1)->Threads(4)->UseRealTime();
BENCHMARK(BM_Read)->Arg(8)->Arg(64)->Threads(1)->Threads(4)->UseRealTime();
BENCHMARK(BM_ReadCall)->Arg(8)->Arg(64)->Threads(1)->Threads(4)->UseRealTime();

}  // namespace
}  // namespace d2g::store

BENCHMARK_MAIN();
