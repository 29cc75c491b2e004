#include "worker/model/torch_process.h"

#include <ATen/Parallel.h>
#include <malloc.h>

#include <limits>

namespace d2g::model {

void SetUpTorchProcess(int threads) {
#if defined(__GLIBC__)
  constexpr int kLargestHeapBlock = 32 << 20;  // glibc takes no more
  ::mallopt(M_MMAP_THRESHOLD, kLargestHeapBlock);
  ::mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
#endif
  if (threads > 0) at::set_num_threads(threads);
}

}  // namespace d2g::model
