// Tells ThreadSanitizer what absl's locks order. The distribution's Abseil is not instrumented, so
// without this every use of absl::Mutex looks like a race. The linker (cmake/Sanitizers.cmake)
// sends calls of the functions below here first; each publishes before it lets go of a lock and
// takes over after it got one. Conditions run inside the library, on any thread that holds the
// lock: what they read is ordered by the lock and is not watched.
#include <sanitizer/tsan_interface.h>

#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"

extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
}

namespace {

class IgnoreReads {
 public:
  IgnoreReads() { AnnotateIgnoreReadsBegin(__FILE__, __LINE__); }
  ~IgnoreReads() { AnnotateIgnoreReadsEnd(__FILE__, __LINE__); }
};

// Calls real(args...) between letting go of `lock` and having it again.
template <typename Lock, typename Real, typename... Args>
auto Reacquire(Lock* lock, Real real, Args... args) {
  __tsan_release(lock);
  struct AtEnd {
    Lock* lock;
    ~AtEnd() { __tsan_acquire(lock); }
  } at_end{lock};
  const IgnoreReads ignore;
  return real(args...);
}

}  // namespace

// Mangled names of Abseil in Debian 12.
#define D2G_REAL(name) __real__ZN4absl7debian3##name
#define D2G_WRAP(name) __wrap__ZN4absl7debian3##name
#define D2G_REAL_CONST(name) __real__ZNK4absl7debian3##name
#define D2G_WRAP_CONST(name) __wrap__ZNK4absl7debian3##name

extern "C" {

#define D2G_LOCK(name)                   \
  void D2G_REAL(name)(absl::Mutex*);     \
  void D2G_WRAP(name)(absl::Mutex * m) { \
    D2G_REAL(name)(m);                   \
    __tsan_acquire(m);                   \
  }
#define D2G_TRY_LOCK(name)               \
  bool D2G_REAL(name)(absl::Mutex*);     \
  bool D2G_WRAP(name)(absl::Mutex * m) { \
    const bool got = D2G_REAL(name)(m);  \
    if (got) __tsan_acquire(m);          \
    return got;                          \
  }
#define D2G_UNLOCK(name)                 \
  void D2G_REAL(name)(absl::Mutex*);     \
  void D2G_WRAP(name)(absl::Mutex * m) { \
    __tsan_release(m);                   \
    const IgnoreReads ignore;            \
    D2G_REAL(name)(m);                   \
  }

D2G_LOCK(5Mutex4LockEv)
D2G_LOCK(5Mutex10ReaderLockEv)
D2G_TRY_LOCK(5Mutex7TryLockEv)
D2G_TRY_LOCK(5Mutex13ReaderTryLockEv)
D2G_UNLOCK(5Mutex6UnlockEv)
D2G_UNLOCK(5Mutex12ReaderUnlockEv)

void D2G_REAL(5Mutex5AwaitERKNS0_9ConditionE)(absl::Mutex*, const absl::Condition*);
void D2G_WRAP(5Mutex5AwaitERKNS0_9ConditionE)(absl::Mutex* m, const absl::Condition* c) {
  Reacquire(m, D2G_REAL(5Mutex5AwaitERKNS0_9ConditionE), m, c);
}

bool D2G_REAL(5Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE)(absl::Mutex*,
                                                                        const absl::Condition*,
                                                                        absl::Duration);
bool D2G_WRAP(5Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE)(absl::Mutex* m,
                                                                        const absl::Condition* c,
                                                                        absl::Duration timeout) {
  return Reacquire(m, D2G_REAL(5Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE), m, c,
                   timeout);
}

bool D2G_REAL(5Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE)(absl::Mutex*,
                                                                     const absl::Condition*,
                                                                     absl::Time);
bool D2G_WRAP(5Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE)(absl::Mutex* m,
                                                                     const absl::Condition* c,
                                                                     absl::Time deadline) {
  return Reacquire(m, D2G_REAL(5Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE), m, c,
                   deadline);
}

void D2G_REAL(5Mutex8LockWhenERKNS0_9ConditionE)(absl::Mutex*, const absl::Condition*);
void D2G_WRAP(5Mutex8LockWhenERKNS0_9ConditionE)(absl::Mutex* m, const absl::Condition* c) {
  Reacquire(m, D2G_REAL(5Mutex8LockWhenERKNS0_9ConditionE), m, c);
}

void D2G_REAL(7CondVar4WaitEPNS0_5MutexE)(absl::CondVar*, absl::Mutex*);
void D2G_WRAP(7CondVar4WaitEPNS0_5MutexE)(absl::CondVar* v, absl::Mutex* m) {
  Reacquire(m, D2G_REAL(7CondVar4WaitEPNS0_5MutexE), v, m);
}

bool D2G_REAL(7CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE)(absl::CondVar*, absl::Mutex*,
                                                                    absl::Duration);
bool D2G_WRAP(7CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE)(absl::CondVar* v,
                                                                    absl::Mutex* m,
                                                                    absl::Duration timeout) {
  return Reacquire(m, D2G_REAL(7CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE), v, m,
                   timeout);
}

void D2G_REAL(12Notification6NotifyEv)(absl::Notification*);
void D2G_WRAP(12Notification6NotifyEv)(absl::Notification* n) {
  __tsan_release(n);
  D2G_REAL(12Notification6NotifyEv)(n);
}

void D2G_REAL_CONST(12Notification19WaitForNotificationEv)(const absl::Notification*);
void D2G_WRAP_CONST(12Notification19WaitForNotificationEv)(const absl::Notification* n) {
  D2G_REAL_CONST(12Notification19WaitForNotificationEv)(n);
  __tsan_acquire(const_cast<absl::Notification*>(n));
}

bool D2G_REAL_CONST(12Notification30WaitForNotificationWithTimeoutENS0_8DurationE)(
    const absl::Notification*, absl::Duration);
bool D2G_WRAP_CONST(12Notification30WaitForNotificationWithTimeoutENS0_8DurationE)(
    const absl::Notification* n, absl::Duration timeout) {
  const bool notified =
      D2G_REAL_CONST(12Notification30WaitForNotificationWithTimeoutENS0_8DurationE)(n, timeout);
  if (notified) __tsan_acquire(const_cast<absl::Notification*>(n));
  return notified;
}

bool D2G_REAL(15BlockingCounter14DecrementCountEv)(absl::BlockingCounter*);
bool D2G_WRAP(15BlockingCounter14DecrementCountEv)(absl::BlockingCounter* c) {
  __tsan_release(c);
  return D2G_REAL(15BlockingCounter14DecrementCountEv)(c);
}

void D2G_REAL(15BlockingCounter4WaitEv)(absl::BlockingCounter*);
void D2G_WRAP(15BlockingCounter4WaitEv)(absl::BlockingCounter* c) {
  D2G_REAL(15BlockingCounter4WaitEv)(c);
  __tsan_acquire(c);
}

}  // extern "C"
