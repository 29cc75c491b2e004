// The instruction sets that the loops over plain memory are compiled for.
#pragma once

namespace d2g::model {

enum class Instructions { kPortable, kAvx2, kAvx512 };

// The best of them that this machine has.
inline Instructions MachineInstructions() {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
  static const Instructions found = [] {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")) {
      return Instructions::kAvx512;
    }
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
               ? Instructions::kAvx2
               : Instructions::kPortable;
  }();
  return found;
#else
  return Instructions::kPortable;
#endif
}

}  // namespace d2g::model
