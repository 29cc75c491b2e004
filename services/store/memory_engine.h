// Keeps everything in memory: for tests. Nothing survives.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/store/engine.h"

namespace d2g::store {

// Thread-safe.
class MemoryEngine final : public Engine {
 public:
  std::vector<DatasetId> Datasets() const override;
  absl::Status CreateDataset(DatasetId dataset) override;
  absl::Status DropDataset(DatasetId dataset) override;
  absl::Status Write(const Commit& commit) override;
  absl::StatusOr<std::string> ReadValue(DatasetId dataset, int64_t index) const override;
  absl::StatusOr<std::string> ReadRow(const std::string& key) const override;
  absl::Status ScanRows(
      const std::string& begin, const std::string& end,
      absl::FunctionRef<bool(absl::string_view key, absl::string_view value)> row) const override;
  absl::Status RemoveRows(const std::string& begin, const std::string& end) override;
  absl::StatusOr<Space> GetSpace() const override;
  absl::Status Health() const override { return absl::OkStatus(); }

  // For tests: what GetSpace answers.
  void set_space(const Space& space) {
    absl::MutexLock lock(&mutex_);
    space_ = space;
  }
  // For tests: changes a stored value behind the store's back. REQUIRES: it exists.
  void FlipBit(DatasetId dataset, int64_t index, size_t byte);

 private:
  mutable absl::Mutex mutex_;
  std::map<std::string, std::string> rows_ ABSL_GUARDED_BY(mutex_);
  std::map<DatasetId, std::map<int64_t, std::string>> values_ ABSL_GUARDED_BY(mutex_);
  Space space_ ABSL_GUARDED_BY(mutex_) = {int64_t{1} << 40, int64_t{1} << 40, "memory"};
};

}  // namespace d2g::store
