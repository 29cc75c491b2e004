#include "model/torch_process.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <malloc.h>

#include <fstream>
#include <limits>
#include <string>

namespace d2g::model {

void SetUpTorchProcess(int threads) {
#if defined(__GLIBC__)
  constexpr int kLargestHeapBlock = 32 << 20;  // glibc takes no more
  ::mallopt(M_MMAP_THRESHOLD, kLargestHeapBlock);
  ::mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
#endif
  if (threads > 0) at::set_num_threads(threads);
  // LibTorch would round what convolutions read to 10 bits on GPUs, and not what products read.
  at::globalContext().setAllowTF32CuDNN(false);
}

int64_t PeakMemoryBytes() {
  constexpr int64_t kUnit = 1024;  // the file states "kB" and means this
  std::ifstream status("/proc/self/status");
  std::string word;
  while (status >> word) {
    int64_t count = 0;
    if (word == "VmHWM:" && status >> count) return count * kUnit;
  }
  return 0;
}

}  // namespace d2g::model
