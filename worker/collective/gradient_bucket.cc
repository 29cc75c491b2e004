#include "worker/collective/gradient_bucket.h"

#include <algorithm>
#include <memory>

#include "model/files/error.h"

namespace d2g::collective {

GradientBuckets::GradientBuckets(const at::Tensor& gradient, int64_t bucket_bytes) {
  constexpr int64_t kElementBytes = sizeof(float);
  if (!gradient.defined() || gradient.scalar_type() != at::kFloat || gradient.dim() != 1 ||
      !gradient.is_contiguous()) {
    model::Fail("gradient buckets need a contiguous fp32 vector");
  }
  if (bucket_bytes < kElementBytes) {
    model::Fail("gradient bucket size is ", bucket_bytes, " bytes; must be at least ",
                kElementBytes);
  }
  const int64_t step = bucket_bytes / kElementBytes;
  for (int64_t begin = 0; begin < gradient.numel(); begin += step) {
    buckets_.push_back(gradient.narrow(0, begin, std::min(step, gradient.numel() - begin)));
  }
}

void GradientBuckets::AllReduceSum(ProcessGroup& group) const {
  std::vector<std::unique_ptr<PendingOperation>> pending;
  pending.reserve(buckets_.size());
  for (const at::Tensor& bucket : buckets_) pending.push_back(group.StartAllReduceSum(bucket));
  for (const auto& operation : pending) operation->Wait();
}

}  // namespace d2g::collective
