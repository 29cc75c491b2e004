// A library that moves the wall clock of one process, as the kernel does for all when somebody sets
// it: the time of day is another, and whoever sleeps until a moment of the wall clock sleeps until
// the moved clock shows it. Preloaded (clock_shift.h) or linked before all other libraries.
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstdlib>
#include <ctime>

#include "tests/testing/clock_shift.h"

namespace {

constexpr int64_t kSecond = 1'000'000'000;
// How long a sleep lasts before it looks at the moved clock again.
constexpr int64_t kSlice = kSecond / 50;

template <typename Function>
Function Next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

// What the wall clock is moved by, in nanoseconds; shared with all who map the same file.
std::atomic<int64_t>* Shift() {
  static std::atomic<int64_t>* const shift = []() -> std::atomic<int64_t>* {
    static std::atomic<int64_t> none{0};
    const char* const path = std::getenv(d2g::testing::kClockShiftVariable);
    const int file = path == nullptr ? -1 : open(path, O_RDWR | O_CLOEXEC);
    if (file < 0) return &none;
    void* const mapped =
        mmap(nullptr, sizeof(int64_t), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    return mapped == MAP_FAILED ? &none : static_cast<std::atomic<int64_t>*>(mapped);
  }();
  return shift;
}

int64_t Nanoseconds(const timespec& time) { return time.tv_sec * kSecond + time.tv_nsec; }

timespec Timespec(int64_t nanoseconds) {
  timespec time = {};
  time.tv_sec = nanoseconds / kSecond;
  time.tv_nsec = nanoseconds % kSecond;
  return time;
}

// A clock as the kernel has it.
int64_t Unmoved(clockid_t clock) {
  static const auto next = Next<decltype(&clock_gettime)>("clock_gettime");
  timespec time = {};
  next(clock, &time);
  return Nanoseconds(time);
}

int64_t Now() { return Unmoved(CLOCK_REALTIME) + *Shift(); }

// wait(until) in slices, where `until` is on the unmoved `clock`, as long as it returns `timed_out`
// and the moved wall clock is before `end`.
template <typename Wait>
auto WaitInSlices(int64_t end, clockid_t clock, int timed_out, Wait wait) {
  while (true) {
    const int64_t slice = std::clamp<int64_t>(end - Now(), 0, kSlice);
    const timespec until = Timespec(Unmoved(clock) + slice);
    const auto result = wait(&until);
    if (result != timed_out || end <= Now()) return result;
  }
}

int WaitOnMovedClock(pthread_cond_t* condition, pthread_mutex_t* mutex, const timespec* end) {
  static const auto next = Next<decltype(&pthread_cond_clockwait)>("pthread_cond_clockwait");
  return WaitInSlices(Nanoseconds(*end), CLOCK_MONOTONIC, ETIMEDOUT, [&](const timespec* until) {
    return next(condition, mutex, CLOCK_MONOTONIC, until);
  });
}

}  // namespace

extern "C" {

std::atomic<int64_t>* d2g_clock_shift() { return Shift(); }

int clock_gettime(clockid_t clock, timespec* time) noexcept {
  static const auto next = Next<decltype(&clock_gettime)>("clock_gettime");
  const int result = next(clock, time);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
    *time = Timespec(Nanoseconds(*time) + *Shift());
  }
  return result;
}

int gettimeofday(timeval* time, void* /*zone*/) noexcept {
  const timespec now = Timespec(Now());
  time->tv_sec = now.tv_sec;
  time->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t* result) noexcept {
  const time_t now = Now() / kSecond;
  if (result != nullptr) *result = now;
  return now;
}

// Abseil and libstdc++ sleep on futexes by this function.
long syscall(long number, ...) noexcept {
  static const auto next = Next<long (*)(long, ...)>("syscall");
  va_list list;
  va_start(list, number);
  long a[6];
  for (long& argument : a) argument = va_arg(list, long);
  va_end(list);
  const bool on_wall_clock = number == SYS_futex && a[3] != 0 &&
                             (a[1] & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET &&
                             (a[1] & FUTEX_CLOCK_REALTIME) != 0;
  if (!on_wall_clock) return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
  const int64_t end = Nanoseconds(*reinterpret_cast<const timespec*>(a[3]));
  const long error = WaitInSlices(end, CLOCK_REALTIME, ETIMEDOUT, [&](const timespec* until) {
    return next(number, a[0], a[1], a[2], until, a[4], a[5]) == 0 ? 0L : long{errno};
  });
  errno = static_cast<int>(error);
  return error == 0 ? 0 : -1;
}

int pthread_cond_clockwait(pthread_cond_t* condition, pthread_mutex_t* mutex, clockid_t clock,
                           const timespec* end) {
  static const auto next = Next<decltype(&pthread_cond_clockwait)>("pthread_cond_clockwait");
  return clock == CLOCK_REALTIME ? WaitOnMovedClock(condition, mutex, end)
                                 : next(condition, mutex, clock, end);
}

int pthread_cond_timedwait(pthread_cond_t* condition, pthread_mutex_t* mutex, const timespec* end) {
  // A condition made for the monotonic clock is told by its moment: that clock began at the boot.
  const bool on_wall_clock = Nanoseconds(*end) > Unmoved(CLOCK_REALTIME) / 2;
  static const auto next = Next<decltype(&pthread_cond_clockwait)>("pthread_cond_clockwait");
  return on_wall_clock ? WaitOnMovedClock(condition, mutex, end)
                       : next(condition, mutex, CLOCK_MONOTONIC, end);
}

}  // extern "C"
