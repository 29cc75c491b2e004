// Setting the wall clock, for the processes of a test only. The machine's own clock stays.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "absl/time/time.h"
#include "tests/testing/temp_dir.h"

namespace d2g::testing {

// Names the file that holds the shift, for the library of clock_shim.cc.
inline constexpr char kClockShiftVariable[] = "D2G_CLOCK_SHIFT_FILE";

// Processes that this one starts while a ClockShift lives have a wall clock that Set moves. It
// works through $LD_PRELOAD. Make it before any thread.
class ClockShift {
 public:
  // `library` is the built clock_shim.cc.
  explicit ClockShift(const std::string& library) {
    const std::string path = dir_.File("shift");
    const int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file >= 0 && ftruncate(file, sizeof(int64_t)) == 0) {
      void* const mapped =
          mmap(nullptr, sizeof(int64_t), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
      if (mapped != MAP_FAILED) shift_ = static_cast<std::atomic<int64_t>*>(mapped);
    }
    if (file >= 0) close(file);
    setenv(kClockShiftVariable, path.c_str(), /*overwrite=*/1);
    setenv("LD_PRELOAD", library.c_str(), /*overwrite=*/1);
  }
  ~ClockShift() {
    unsetenv("LD_PRELOAD");
    unsetenv(kClockShiftVariable);
    if (shift_ != nullptr) munmap(shift_, sizeof(int64_t));
  }
  ClockShift(const ClockShift&) = delete;
  ClockShift& operator=(const ClockShift&) = delete;

  // False when the file could not be made: Set must not be called then.
  bool ok() const { return shift_ != nullptr; }
  // What the wall clock is ahead of the machine's.
  void Set(absl::Duration shift) { *shift_ = absl::ToInt64Nanoseconds(shift); }

 private:
  TempDir dir_;
  std::atomic<int64_t>* shift_ = nullptr;
};

}  // namespace d2g::testing

// In a program that links clock_shim.cc itself: its own shift, in nanoseconds.
extern "C" std::atomic<int64_t>* d2g_clock_shift();
