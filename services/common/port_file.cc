#include "services/common/port_file.h"

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "services/common/file_io.h"
#include "services/common/status_macros.h"

namespace d2g::common {

absl::Status WritePortFile(const std::string& path, const Ports& ports) {
  if (path.empty()) return absl::OkStatus();
  return WriteFileAtomically(
      path, absl::StrCat("{\"grpc\": ", ports.grpc, ", \"admin\": ", ports.admin, "}\n"));
}

absl::StatusOr<Ports> ReadPortFile(const std::string& path) {
  D2G_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("grpc") || !json["grpc"].is_number_integer() ||
      !json.contains("admin") || !json["admin"].is_number_integer()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a port file"));
  }
  return Ports{json["grpc"].get<int>(), json["admin"].get<int>()};
}

}  // namespace d2g::common
