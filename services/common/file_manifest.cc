#include "services/common/file_manifest.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "services/common/file_io.h"
#include "services/common/status_macros.h"

namespace d2g::common {
namespace {

using nlohmann::json;

constexpr int kVersion = 1;

absl::StatusOr<ManifestEntry> Describe(const std::string& path, const Tick& tick) {
  Digester digester;
  ManifestEntry entry;
  D2G_ASSIGN_OR_RETURN(entry.size, digester.UpdateFromFile(path, tick));
  entry.digest = digester.Hex();
  return entry;
}

}  // namespace

absl::StatusOr<FileManifest> DescribeFiles(const std::string& folder,
                                           const std::vector<std::string>& names,
                                           const Tick& tick) {
  FileManifest manifest;
  for (const std::string& name : names) {
    D2G_ASSIGN_OR_RETURN(manifest[name], Describe(absl::StrCat(folder, "/", name), tick));
  }
  return manifest;
}

std::string FormatManifest(const FileManifest& manifest) {
  json files = json::array();
  for (const auto& [name, entry] : manifest) {
    files.push_back({{"name", name}, {"size", entry.size}, {"xxh3_128", entry.digest}});
  }
  return json({{"version", kVersion}, {"files", files}}).dump(1) + "\n";
}

absl::StatusOr<FileManifest> ParseManifest(const std::string& path, const std::string& text) {
  try {
    FileManifest manifest;
    const json in = json::parse(text);
    for (const json& file : in.at("files")) {
      manifest[file.at("name").get<std::string>()] = {file.at("size").get<int64_t>(),
                                                      file.at("xxh3_128").get<std::string>()};
    }
    return manifest;
  } catch (const json::exception& error) {
    return absl::DataLossError(absl::StrCat(path, ": ", error.what()));
  }
}

absl::StatusOr<FileManifest> ReadManifest(const std::string& folder) {
  const std::string path = absl::StrCat(folder, "/", kManifestFile);
  D2G_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  return ParseManifest(path, text);
}

absl::Status CheckFile(const std::string& folder, const std::string& name,
                       const FileManifest& manifest, const Tick& tick) {
  const std::string path = absl::StrCat(folder, "/", name);
  const auto expected = manifest.find(name);
  if (expected == manifest.end()) {
    return absl::DataLossError(absl::StrCat(folder, "/", kManifestFile, ": does not list ", name));
  }
  D2G_ASSIGN_OR_RETURN(const ManifestEntry actual, Describe(path, tick));
  if (actual.size != expected->second.size) {
    return absl::DataLossError(absl::StrCat(path, ": has ", actual.size,
                                            " bytes, its manifest says ", expected->second.size));
  }
  if (actual.digest != expected->second.digest) {
    return absl::DataLossError(absl::StrCat(path, ": XXH3-128 is ", actual.digest,
                                            ", its manifest says ", expected->second.digest));
  }
  return absl::OkStatus();
}

absl::Status CheckFiles(const std::string& folder, const std::vector<std::string>& names,
                        const Tick& tick) {
  D2G_ASSIGN_OR_RETURN(const FileManifest manifest, ReadManifest(folder));
  for (const std::string& name : names) {
    D2G_RETURN_IF_ERROR(CheckFile(folder, name, manifest, tick));
  }
  return absl::OkStatus();
}

}  // namespace d2g::common
