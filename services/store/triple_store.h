// One shard's triples: the rules of appending, sealing, reading and invalidating, over an engine.
//
//   dataset   opened once with its recipe; the recipe never changes
//   block     recipe.block_size consecutive indices; block b lives on shard b mod shard_count
//   present   value, checksum and presence bit are durable; the first write of an index wins
//   sealed    present, and promised to readers: counted in the dataset's digest
//   epoch     per block; InvalidateRange raises it, appends under an older one are refused
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "d2g/common/v1/recipe.pb.h"
#include "d2g/store/v1/rows.pb.h"
#include "d2g/store/v1/triple_service.pb.h"
#include "services/common/clock.h"
#include "services/store/block_state.h"
#include "services/store/engine.h"
#include "services/store/store_metrics.h"

namespace d2g::store {

struct TripleStoreOptions {
  // This shard's number; fixed in the folder when it is made.
  int shard = 0;
  // Appends are refused when they would leave less than the larger of these two.
  int64_t min_free_bytes = int64_t{4} << 30;
  double min_free_share = 0.05;
  // Not owned; must outlive the store.
  const common::Clock* clock = common::RealClock::Get();
  // Not owned; may be null.
  StoreMetrics* metrics = nullptr;
};

// Largest latent, so that an append message and a read of one triple fit a gRPC message.
inline constexpr int64_t kMaxLatentBytes = 4 << 20;
// Bounds of DatasetRecipe.block_size.
inline constexpr int kMinBlockSize = 16;
inline constexpr int kMaxBlockSize = 65536;

// Thread-safe. Methods block on the disk. Errors name dataset and index.
class TripleStore {
 public:
  // Reads what the engine holds: O(blocks). FAILED_PRECONDITION when the folder belongs to another
  // shard number; DATA_LOSS when a row cannot be read.
  static absl::StatusOr<std::unique_ptr<TripleStore>> Create(std::unique_ptr<Engine> engine,
                                                             const TripleStoreOptions& options);
  ~TripleStore();

  const std::string& uuid() const { return uuid_; }
  int shard() const { return options_.shard; }

  // Idempotent; ALREADY_EXISTS when the name has another recipe; INVALID_ARGUMENT names every bad
  // field.
  absl::Status OpenDataset(const std::string& name, const common::v1::DatasetRecipe& recipe);

  // Checks that appends to a range may begin, and returns its presence bitmap.
  absl::StatusOr<std::string> OpenRange(const std::string& name,
                                        const common::v1::IndexRange& range,
                                        int64_t range_epoch) const;

  struct Appended {
    int written = 0;
    int repeated = 0;
  };
  // Makes triples of one block durable, all or none. Checks each: in the block, size, checksum
  // (DATA_LOSS), finite numbers.
  absl::StatusOr<Appended> Append(const std::string& name, int64_t range_epoch,
                                  absl::Span<const v1::Triple* const> triples);

  absl::StatusOr<v1::SealRangeResponse> Seal(const std::string& name,
                                             const common::v1::IndexRange& range,
                                             const v1::Producer& producer);

  absl::StatusOr<v1::Triple> Read(const std::string& name, int64_t index) const;

  absl::StatusOr<v1::ListSealedRangesResponse> ListSealed(const std::string& name) const;

  // Reads every present triple. `finding` gets index and reason of the bad ones and returns false
  // to end early (CANCELLED).
  absl::StatusOr<v1::VerifyDatasetResponse::Summary> Verify(
      const std::string& name,
      absl::FunctionRef<bool(int64_t index, const std::string& reason)> finding,
      absl::FunctionRef<bool()> go_on = [] { return true; }) const;

  // Returns how many triples went.
  absl::StatusOr<int64_t> Invalidate(const std::string& name, const common::v1::IndexRange& range,
                                     int64_t range_epoch);

  // Idempotent. After a failure nothing of it can be read any more, and a repeat goes on, as does
  // OpenDataset and the next start.
  absl::Status Drop(const std::string& name);

  // A dataset whose drop has not gone through yet is listed with nothing in it.
  std::vector<v1::GetStatsResponse::DatasetStats> Stats() const;

  // Free bytes of the volume; 0 when it cannot be asked.
  int64_t FreeBytes() const;
  // OK while the disk takes writes. A volume at its limit of free space is still ready: reads,
  // seals and drops go on.
  absl::Status Ready() const;

 private:
  // A block while it is being changed on disk: others that change it wait.
  struct Block {
    explicit Block(BlockState initial) : state(std::move(initial)) {}
    BlockState state;
    bool busy = false;
  };

  struct Dataset {
    DatasetId id = 0;
    std::string name;
    common::v1::DatasetRecipe recipe;

    mutable absl::Mutex mutex;
    bool dropped ABSL_GUARDED_BY(mutex) = false;
    // Changes of blocks under way; a drop waits for none.
    int changing ABSL_GUARDED_BY(mutex) = 0;
    std::map<int64_t, std::unique_ptr<Block>> blocks ABSL_GUARDED_BY(mutex);
    int64_t present_count ABSL_GUARDED_BY(mutex) = 0;
    int64_t sealed_count ABSL_GUARDED_BY(mutex) = 0;
    uint64_t sealed_digest ABSL_GUARDED_BY(mutex) = 0;
    int64_t repeated_appends ABSL_GUARDED_BY(mutex) = 0;
  };

  // Holds a block for one change: a copy of its state, swapped in by Apply.
  class BlockChange;
  // Holds the catalogue for one change.
  class CatalogTurn;

  TripleStore(std::unique_ptr<Engine> engine, const TripleStoreOptions& options);

  absl::Status Load();
  // FAILED_PRECONDITION when the database holds rows that are not a store's.
  absl::Status CheckEmpty() const;
  absl::Status LoadIdentity();
  absl::Status LoadDataset(DatasetId id, const v1::DatasetRow& row);
  absl::Status RemoveFromDisk(DatasetId id);
  // REQUIRES: it is marked as dropped and no change is under way; the caller has the catalogue.
  absl::Status RemoveDataset(const Dataset& dataset) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::StatusOr<std::shared_ptr<Dataset>> Find(const std::string& name) const
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Checks that the range lies inside one block of this shard.
  absl::Status CheckRange(const Dataset& dataset, const common::v1::IndexRange& range) const;
  absl::Status CheckTriple(const Dataset& dataset, const v1::Triple& triple) const;
  absl::Status CheckSpace(int64_t bytes) const;
  // Writes and times a commit.
  absl::Status WriteTimed(const Commit& commit);
  // x_checksums of the present triples of a range, by index.
  absl::StatusOr<std::map<int64_t, uint64_t>> ReadChecksums(
      const Dataset& dataset, const common::v1::IndexRange& range) const;
  bool IsPresent(const Dataset& dataset, int64_t index) const;
  // Waits for the change, if any, of the block that holds `index`.
  void AwaitChange(const Dataset& dataset, int64_t index) const;
  absl::StatusOr<v1::Triple> ReadFrom(const Dataset& dataset, int64_t index) const;

  const std::unique_ptr<Engine> engine_;
  const TripleStoreOptions options_;
  std::string uuid_;

  mutable absl::Mutex mutex_;
  // A dataset is being opened or dropped on disk: others that would do so wait.
  bool catalog_busy_ ABSL_GUARDED_BY(mutex_) = false;
  absl::flat_hash_map<std::string, std::shared_ptr<Dataset>> datasets_ ABSL_GUARDED_BY(mutex_);
  DatasetId next_id_ ABSL_GUARDED_BY(mutex_) = 1;
};

}  // namespace d2g::store
