// Whole files, durably.
#pragma once

#include <cstdint>
#include <string>
#include <system_error>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace d2g::common {

// As files::FileWriter (services/files/file_writer.h): a reader (or a crash) sees the old content
// or the new, whole. On failure nothing is left behind and the error is an ErrnoStatus.
absl::Status WriteFileAtomically(const std::string& path, absl::string_view content);

// The whole file; NOT_FOUND, RESOURCE_EXHAUSTED above `max_bytes`, or INVALID_ARGUMENT for a folder
// and for a pipe into which nobody writes within a few seconds.
absl::StatusOr<std::string> ReadFile(const std::string& path, int64_t max_bytes = 1 << 30);

// Makes a rename or a new file in `folder` durable.
absl::Status SyncFolder(const std::string& folder);

// `path`, taken from the current folder when it is relative, without "." and ".." parts. Looks at
// no file. INVALID_ARGUMENT for an empty path, or a relative one when the current folder was
// deleted.
absl::StatusOr<std::string> AbsolutePath(const std::string& path);

// The status of what files::FileWriter threw, as an ErrnoStatus.
absl::Status FromSystemError(const std::system_error& error);

// An absl::Status for errno: "path: what: reason", with a code that fits (NOT_FOUND,
// PERMISSION_DENIED, RESOURCE_EXHAUSTED for a full disk, else INTERNAL).
absl::Status ErrnoStatus(int error, absl::string_view path, absl::string_view what);

}  // namespace d2g::common
