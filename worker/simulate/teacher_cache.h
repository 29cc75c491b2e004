// The teacher in memory, loaded once per process.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "model/text_to_image.h"
#include "services/common/digest.h"
#include "services/common/metrics.h"

namespace d2g::simulate {

// A loaded teacher. Immutable; thread-safe as TextToImageModel is.
struct Teacher {
  std::string digest;
  std::vector<int64_t> latent_shape;
  model::TextToImageModel model;
  // Embedding of the empty prompt, one row.
  model::PromptEmbeddings unconditional;
};

// How a teacher is run.
struct TeacherOptions {
  model::SolverKind solver = model::SolverKind::kDdim;
  // The networks' dtype: fp32, or on a GPU fp16 or bf16.
  at::ScalarType dtype = at::kFloat;

  bool operator==(const TeacherOptions&) const = default;
};

// Keeps the teacher used last: tasks of one job follow each other. Thread-safe; a load holds up
// other callers.
class TeacherCache {
 public:
  // `load_seconds` is not owned; it gets the time of each load.
  TeacherCache(at::Device device, prometheus::Histogram* load_seconds)
      : device_(device), load_seconds_(load_seconds) {}

  // The teacher at `path` with that solver and networks of that dtype; the folder must have that
  // digest: FAILED_PRECONDITION names both digests, or the file that is missing or
  // damaged on this machine; INVALID_ARGUMENT what is not supported. A teacher that is loaded
  // already is not looked at on disk again. `tick` is called while a teacher is read; CANCELLED
  // when it says false.
  absl::StatusOr<std::shared_ptr<const Teacher>> Get(const std::string& path,
                                                     const std::string& digest,
                                                     const TeacherOptions& options,
                                                     const common::Tick& tick = nullptr)
      ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  absl::StatusOr<std::shared_ptr<const Teacher>> Load(const std::string& path,
                                                      const std::string& digest,
                                                      const TeacherOptions& options,
                                                      const common::Tick& tick) const;

  const at::Device device_;
  prometheus::Histogram* const load_seconds_;
  absl::Mutex mutex_;
  std::shared_ptr<const Teacher> teacher_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace d2g::simulate
