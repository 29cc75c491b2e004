#include "services/store/memory_engine.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace d2g::store {

std::string PrefixEnd(std::string prefix) {
  while (!prefix.empty() && static_cast<unsigned char>(prefix.back()) == 0xFF) prefix.pop_back();
  if (!prefix.empty()) ++prefix.back();
  return prefix;
}

std::vector<DatasetId> MemoryEngine::Datasets() const {
  absl::MutexLock lock(&mutex_);
  std::vector<DatasetId> ids;
  for (const auto& [id, values] : values_) ids.push_back(id);
  return ids;
}

absl::Status MemoryEngine::CreateDataset(DatasetId dataset) {
  absl::MutexLock lock(&mutex_);
  values_[dataset];
  return absl::OkStatus();
}

absl::Status MemoryEngine::DropDataset(DatasetId dataset) {
  absl::MutexLock lock(&mutex_);
  values_.erase(dataset);
  return absl::OkStatus();
}

absl::Status MemoryEngine::Write(const Commit& commit) {
  absl::MutexLock lock(&mutex_);
  if (commit.dataset != 0 && !values_.contains(commit.dataset)) {
    return absl::InternalError(absl::StrCat("no place for dataset ", commit.dataset));
  }
  for (const Commit::Value& value : commit.values) {
    values_[commit.dataset][value.index] = absl::StrCat(value.header, value.x);
  }
  for (const int64_t index : commit.removed_values) values_[commit.dataset].erase(index);
  for (const auto& [key, value] : commit.rows) rows_[key] = value;
  for (const std::string& key : commit.removed_rows) rows_.erase(key);
  return absl::OkStatus();
}

absl::StatusOr<std::string> MemoryEngine::ReadValue(DatasetId dataset, int64_t index) const {
  absl::MutexLock lock(&mutex_);
  const auto values = values_.find(dataset);
  if (values != values_.end()) {
    const auto value = values->second.find(index);
    if (value != values->second.end()) return value->second;
  }
  return absl::NotFoundError(absl::StrCat("index ", index, " is absent"));
}

absl::StatusOr<std::string> MemoryEngine::ReadRow(const std::string& key) const {
  absl::MutexLock lock(&mutex_);
  const auto row = rows_.find(key);
  if (row == rows_.end()) return absl::NotFoundError("no such row");
  return row->second;
}

absl::Status MemoryEngine::ScanRows(
    const std::string& begin, const std::string& end,
    absl::FunctionRef<bool(absl::string_view key, absl::string_view value)> row) const {
  absl::MutexLock lock(&mutex_);
  for (auto it = rows_.lower_bound(begin); it != rows_.end(); ++it) {
    if ((!end.empty() && it->first >= end) || !row(it->first, it->second)) break;
  }
  return absl::OkStatus();
}

absl::Status MemoryEngine::RemoveRows(const std::string& begin, const std::string& end) {
  absl::MutexLock lock(&mutex_);
  rows_.erase(rows_.lower_bound(begin), end.empty() ? rows_.end() : rows_.lower_bound(end));
  return absl::OkStatus();
}

absl::StatusOr<Engine::Space> MemoryEngine::GetSpace() const {
  absl::MutexLock lock(&mutex_);
  return space_;
}

void MemoryEngine::FlipBit(DatasetId dataset, int64_t index, size_t byte) {
  absl::MutexLock lock(&mutex_);
  std::string& value = values_.at(dataset).at(index);
  value[byte] = static_cast<char>(value[byte] ^ 1);
}

}  // namespace d2g::store
