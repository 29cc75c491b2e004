// What a shard's storage must be able to do: the seam between the store's rules (triple_store.h)
// and the disk. Engines know keys and bytes, nothing of blocks or seals.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "services/store/keys.h"

namespace d2g::store {

// Changes that become durable together or not at all.
struct Commit {
  // A triple's value in two parts, so that large latents are not copied together first. The parts
  // must stay alive until the commit returns.
  struct Value {
    int64_t index = 0;
    std::string header;
    absl::string_view x;
  };
  // Column family of `values` and `removed_values`; 0 when there are none.
  DatasetId dataset = 0;
  std::vector<Value> values;
  std::vector<int64_t> removed_values;
  std::vector<std::pair<std::string, std::string>> rows;
  std::vector<std::string> removed_rows;
};

// Thread-safe. Commits that run at the same time may share an fsync.
class Engine {
 public:
  virtual ~Engine() = default;

  // Datasets whose values the engine holds a place for.
  virtual std::vector<DatasetId> Datasets() const = 0;
  // Makes a place for a dataset's values; OK when there is one.
  virtual absl::Status CreateDataset(DatasetId dataset) = 0;
  // Gives a dataset's space back; OK when it is unknown. No commit of the dataset may be running.
  virtual absl::Status DropDataset(DatasetId dataset) = 0;

  // Durable when it returns OK. RESOURCE_EXHAUSTED names the path when the disk is full. After
  // another error it is unknown whether the commit happened.
  virtual absl::Status Write(const Commit& commit) = 0;

  // A triple's value; NOT_FOUND, or DATA_LOSS when the engine itself finds it damaged.
  virtual absl::StatusOr<std::string> ReadValue(DatasetId dataset, int64_t index) const = 0;
  // A row's value or NOT_FOUND.
  virtual absl::StatusOr<std::string> ReadRow(const std::string& key) const = 0;
  // Rows with begin <= key < end (an empty end: no bound), ascending, until `row` returns false.
  virtual absl::Status ScanRows(
      const std::string& begin, const std::string& end,
      absl::FunctionRef<bool(absl::string_view key, absl::string_view value)> row) const = 0;
  // Removes rows with begin <= key < end, durably.
  virtual absl::Status RemoveRows(const std::string& begin, const std::string& end) = 0;

  // Space of the volume.
  struct Space {
    int64_t free_bytes = 0;
    int64_t total_bytes = 0;
    // What to name in errors.
    std::string path;
  };
  virtual absl::StatusOr<Space> GetSpace() const = 0;

  // Not OK while the engine refuses writes (a failed disk). For readiness.
  virtual absl::Status Health() const = 0;
};

// The smallest key greater than all that start with `prefix`.
std::string PrefixEnd(std::string prefix);

}  // namespace d2g::store
