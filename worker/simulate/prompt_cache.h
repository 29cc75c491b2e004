// Prompt lists by digest, fetched from the coordinator.
#pragma once

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "coordinator/client/client.h"
#include "services/common/prompts.h"

namespace d2g::simulate {

// Keeps the list used last. Thread-safe.
class PromptCache {
 public:
  // `client` is not owned and outlives this.
  explicit PromptCache(coordinator::CoordinatorClient* client) : client_(client) {}

  // INVALID_ARGUMENT when the coordinator has no such list, what it sent has another digest, or it
  // does not have `prompt_count` lines.
  absl::StatusOr<std::shared_ptr<const common::PromptLines>> Get(const std::string& digest,
                                                                 int64_t prompt_count,
                                                                 absl::Time deadline)
      ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  coordinator::CoordinatorClient* const client_;
  absl::Mutex mutex_;
  std::shared_ptr<const common::PromptLines> prompts_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace d2g::simulate
