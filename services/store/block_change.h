// How the store changes one block; a part of TripleStore's implementation.
#pragma once

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/store/triple_store.h"

namespace d2g::store {

// Holds a block for one change: others that would change it wait. The change is made on a copy of
// its state, written to disk without any lock, and becomes visible with Apply.
class TripleStore::BlockChange {
 public:
  explicit BlockChange(Dataset* dataset) : dataset_(dataset) {}
  ~BlockChange() {
    if (block_ == nullptr) return;
    absl::MutexLock lock(&dataset_->mutex);
    block_->busy = false;
    --dataset_->changing;
  }
  BlockChange(const BlockChange&) = delete;
  BlockChange& operator=(const BlockChange&) = delete;

  // Waits for other changes of the block that holds `index`.
  absl::Status Begin(int64_t index) {
    const int64_t size = dataset_->recipe.block_size();
    const int64_t number = index / size;
    absl::MutexLock lock(&dataset_->mutex);
    std::unique_ptr<Block>& slot = dataset_->blocks[number];
    if (slot == nullptr) slot = std::make_unique<Block>(BlockState(number * size, size));
    Block* const block = slot.get();
    const auto free = [this, block]() ABSL_SHARED_LOCKS_REQUIRED(dataset_->mutex) {
      return dataset_->dropped || !block->busy;
    };
    dataset_->mutex.Await(absl::Condition(&free));
    if (dataset_->dropped) {
      return absl::NotFoundError(absl::StrCat(dataset_->name, " is not open on this shard"));
    }
    block->busy = true;
    ++dataset_->changing;
    block_ = block;
    state_ = std::make_unique<BlockState>(block->state);
    return absl::OkStatus();
  }

  // The copy: change it, write it to disk, then Apply.
  BlockState& state() { return *state_; }
  RowKey row_key() const {
    return {RowKind::kBlock, dataset_->id, state_->first() / dataset_->recipe.block_size()};
  }

  // Makes the change visible. Call once its commit is durable.
  void Apply() {
    absl::MutexLock lock(&dataset_->mutex);
    BlockState& old = block_->state;
    dataset_->present_count += state_->present_count() - old.present_count();
    dataset_->sealed_count += state_->sealed_count() - old.sealed_count();
    dataset_->sealed_digest += state_->sealed_digest() - old.sealed_digest();
    old = *state_;
  }

 private:
  Dataset* const dataset_;
  Block* block_ = nullptr;
  std::unique_ptr<BlockState> state_;
};

}  // namespace d2g::store
