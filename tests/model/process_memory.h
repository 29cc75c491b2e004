// How much memory this process has had resident, for tests that bound it.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>
#include <string>

namespace d2g::model {

// A field of /proc/self/status, bytes.
inline int64_t StatusBytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  std::string word;
  while (status >> word) {
    int64_t count = 0;
    if (word == field && status >> count) return count * 1024;
  }
  return 0;
}

inline int64_t ResidentMemory() { return StatusBytes("VmRSS:"); }
// The most so far.
inline int64_t PeakMemory() { return StatusBytes("VmHWM:"); }

// The address sanitizer keeps what is freed: with it nothing is expected.
inline void ExpectPeakGrowthBelow(int64_t before, int64_t bytes) {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  EXPECT_LT(PeakMemory() - before, bytes);
#else
  (void)before;
  (void)bytes;
#endif
}

}  // namespace d2g::model
