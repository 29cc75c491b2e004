// Turns the model library's exceptions into statuses at a program's border.
#pragma once

#include <cstdint>
#include <exception>
#include <filesystem>
#include <initializer_list>
#include <new>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>

#include <c10/util/Exception.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "model/files/error.h"
#include "model/files/missing_file.h"
#include "worker/common/device_lost.h"

namespace d2g {

// LibTorch's allocator for the CPU has no exception of its own, nor have the libraries below it.
inline bool SaysOutOfMemory(const std::string& message) {
  for (const char* words : {"can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED",
                            // What cublasCreate says on a full card.
                            "CUBLAS_STATUS_NOT_INITIALIZED", "CUDNN_STATUS_ALLOC_FAILED",
                            // No algorithm's workspace fits.
                            "unable to find an engine to execute"}) {
    if (message.find(words) != std::string::npos) return true;
  }
  return false;
}

// Errors of the CUDA runtime after which every further call of the process fails: memory or links
// that could not be corrected (214, 220, 226), an illegal address, a launch that ran out of time, a
// context that is gone, a failed assertion (700, 702, 709, 710), and faults of what was launched
// (714 to 719).
inline bool IsFatalCudaError(int32_t code) {
  for (const int32_t fatal : {214, 220, 226, 700, 702, 709, 710}) {
    if (code == fatal) return true;
  }
  return code >= 714 && code <= 719;
}

// The status of the exception in flight; call from a catch block. model::MissingFile becomes
// NOT_FOUND, any other model::IoError INTERNAL and any other model::Error (bad input)
// INVALID_ARGUMENT, each with its message, lack of
// memory RESOURCE_EXHAUSTED, and the rest INTERNAL with LibTorch's first line (without its stack),
// marked (worker/common/device_lost.h) when the GPU is lost to this process.
inline absl::Status CurrentExceptionStatus() {
  try {
    throw;
  } catch (const model::MissingFile& error) {
    return absl::NotFoundError(error.what());
  } catch (const model::IoError& error) {
    return absl::InternalError(error.what());
  } catch (const model::Error& error) {
    return absl::InvalidArgumentError(error.what());
  } catch (const c10::OutOfMemoryError& error) {
    return absl::ResourceExhaustedError(error.what_without_backtrace());
  } catch (const c10::AcceleratorError& error) {
    const std::string message = error.what_without_backtrace();
    if (SaysOutOfMemory(message)) return absl::ResourceExhaustedError(message);
    return IsFatalCudaError(error.get_error_code()) ? DeviceLostError(message)
                                                    : absl::InternalError(message);
  } catch (const c10::Error& error) {
    const std::string message = error.what_without_backtrace();
    return SaysOutOfMemory(message) ? absl::ResourceExhaustedError(message)
                                    : absl::InternalError(message);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory");
  } catch (const std::exception& error) {
    return absl::InternalError(error.what());
  } catch (...) {
    return absl::InternalError("unknown exception");
  }
}

// The status of work that reads `folders`, which were checked when the job was submitted. A file
// missing (NOT_FOUND with the file's path first) from a folder that exists was missing then, too,
// so no retry helps: INVALID_ARGUMENT. Where the folder is gone, this machine has lost a mount. Not
// for folders that the job itself writes: a file of those may be on its way from another machine.
inline absl::Status JudgeMissingInput(const absl::Status& status,
                                      std::initializer_list<std::string> folders) {
  if (!absl::IsNotFound(status)) return status;
  std::error_code error;
  for (const std::string& folder : folders) {
    if (folder.empty() || !absl::StartsWith(status.message(), folder + "/")) continue;
    if (std::filesystem::is_directory(folder, error)) {
      return absl::InvalidArgumentError(status.message());
    }
  }
  return status;
}

// Runs f() and turns what it throws into a status. f returns void, absl::Status, a StatusOr or a
// value; the result is absl::Status, or StatusOr of the value.
template <typename F>
auto CatchTorch(F&& f) {
  using Result = std::invoke_result_t<F>;
  if constexpr (std::is_void_v<Result>) {
    try {
      std::forward<F>(f)();
      return absl::OkStatus();
    } catch (...) {
      return CurrentExceptionStatus();
    }
  } else if constexpr (std::is_constructible_v<Result, absl::Status>) {
    try {
      return Result(std::forward<F>(f)());
    } catch (...) {
      return Result(CurrentExceptionStatus());
    }
  } else {
    try {
      return absl::StatusOr<Result>(std::forward<F>(f)());
    } catch (...) {
      return absl::StatusOr<Result>(CurrentExceptionStatus());
    }
  }
}

}  // namespace d2g
