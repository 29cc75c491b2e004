// All-reduce of a network's whole gradient.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/collective/process_group.h"

namespace d2g::collective {

// Bytes a bucket unless told otherwise: large enough to use the network well, small enough that the
// first is on its way while the next is prepared.
inline constexpr int64_t kDefaultBucketBytes = 25 << 20;

// Cuts a flat gradient ([N] fp32, contiguous, parameters in a fixed order) into consecutive views
// and reduces them. Cuts depend on N and the bucket size alone, so that all ranks agree and the sum
// is the same bits from run to run. Not thread-safe.
class GradientBuckets {
 public:
  // Throws model::Error unless `gradient` is a contiguous vector of fp32 and bucket_bytes is at
  // least 4. Shares the gradient's memory.
  explicit GradientBuckets(const at::Tensor& gradient, int64_t bucket_bytes = kDefaultBucketBytes);

  // Replaces the gradient by its sum over ranks: all buckets are started, then awaited in order.
  void AllReduceSum(ProcessGroup& group) const;

  const std::vector<at::Tensor>& buckets() const { return buckets_; }

 private:
  std::vector<at::Tensor> buckets_;
};

}  // namespace d2g::collective
