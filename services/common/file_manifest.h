// A folder's own list of its files, with which their bytes are checked.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/common/digest.h"

namespace d2g::common {

inline constexpr char kManifestFile[] = "manifest.json";

struct ManifestEntry {
  int64_t size = 0;
  // 32 hex digits of XXH3-128.
  std::string digest;
};
// By name, relative to the folder.
using FileManifest = std::map<std::string, ManifestEntry>;

// Reads the files `names` of `folder` and lists them. `tick` is as in Digester::UpdateFromFile.
absl::StatusOr<FileManifest> DescribeFiles(const std::string& folder,
                                           const std::vector<std::string>& names,
                                           const Tick& tick = nullptr);

// The text of manifest.json, and back: DATA_LOSS names `path` and what is wrong.
std::string FormatManifest(const FileManifest& manifest);
absl::StatusOr<FileManifest> ParseManifest(const std::string& path, const std::string& text);
// The manifest.json of `folder`; NOT_FOUND when there is none.
absl::StatusOr<FileManifest> ReadManifest(const std::string& folder);

// Compares the file `name` of `folder` with its entry. DATA_LOSS names the file, what was found and
// what the manifest says; NOT_FOUND a missing file.
absl::Status CheckFile(const std::string& folder, const std::string& name,
                       const FileManifest& manifest, const Tick& tick = nullptr);
// The same for several files, by the manifest.json in the folder.
absl::Status CheckFiles(const std::string& folder, const std::vector<std::string>& names,
                        const Tick& tick = nullptr);

}  // namespace d2g::common
