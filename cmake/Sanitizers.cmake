# -DD2G_SANITIZE=address,undefined or thread. LibTorch's library is not instrumented, so
# sanitizer builds leave out everything that links it.
if(D2G_SANITIZE)
  if(D2G_TORCH)
    message(FATAL_ERROR "D2G_SANITIZE=${D2G_SANITIZE} needs -DD2G_TORCH=OFF")
  endif()
  add_compile_options(-fsanitize=${D2G_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${D2G_SANITIZE})
endif()

# ThreadSanitizer and the distribution's uninstrumented Abseil: see tests/testing/tsan_abseil.cc.
if(D2G_SANITIZE STREQUAL "thread")
  # Protobuf's headers give messages another layout under ThreadSanitizer than the distribution's
  # library has. libstdc++ needs to know of it all the same.
  add_compile_options(-U__SANITIZE_THREAD__ -D_GLIBCXX_TSAN=1)
  add_library(d2g_tsan_abseil STATIC ${PROJECT_SOURCE_DIR}/tests/testing/tsan_abseil.cc)
  target_link_libraries(d2g_tsan_abseil PUBLIC absl::synchronization)
  foreach(name
      _ZN4absl7debian35Mutex4LockEv _ZN4absl7debian35Mutex10ReaderLockEv
      _ZN4absl7debian35Mutex7TryLockEv _ZN4absl7debian35Mutex13ReaderTryLockEv
      _ZN4absl7debian35Mutex6UnlockEv _ZN4absl7debian35Mutex12ReaderUnlockEv
      _ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE
      _ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE
      _ZN4absl7debian35Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE
      _ZN4absl7debian35Mutex8LockWhenERKNS0_9ConditionE
      _ZN4absl7debian37CondVar4WaitEPNS0_5MutexE
      _ZN4absl7debian37CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE
      _ZN4absl7debian312Notification6NotifyEv
      _ZNK4absl7debian312Notification19WaitForNotificationEv
      _ZNK4absl7debian312Notification30WaitForNotificationWithTimeoutENS0_8DurationE
      _ZN4absl7debian315BlockingCounter14DecrementCountEv
      _ZN4absl7debian315BlockingCounter4WaitEv)
    add_link_options(LINKER:--wrap=${name})
  endforeach()
  # Taken out of the archive even where only shared libraries call them.
  add_link_options(LINKER:--undefined=__wrap__ZN4absl7debian35Mutex4LockEv)
  link_libraries(d2g_tsan_abseil)
endif()
