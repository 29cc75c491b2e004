#include "services/common/grpc_status.h"

#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "services/common/utf8.h"

namespace d2g::common {
namespace {

constexpr char kBadRequestUrl[] = "type.googleapis.com/google.rpc.BadRequest";
// gRPC refuses trailers above 8 KiB in all; the rest is for other metadata.
constexpr size_t kMaxTrailerBytes = 7500;
constexpr size_t kMaxStatusBytes = 1500;
constexpr size_t kMaxDetailBytes = 2500;

// What a status takes in the trailers: the message travels twice, percent-encoded and in the
// details, which travel as base64.
size_t TrailerBytes(const google::rpc::Status& wire) {
  size_t encoded = 0;
  for (const char c : wire.message()) encoded += c >= ' ' && c <= '~' && c != '%' ? 1 : 3;
  return encoded + (wire.ByteSizeLong() + 2) / 3 * 4;
}

}  // namespace

absl::Status BadRequest(const std::vector<FieldViolation>& violations) {
  google::rpc::BadRequest details;
  std::string message;
  for (const FieldViolation& violation : violations) {
    absl::StrAppend(&message, message.empty() ? "" : "; ", violation.field, ": ",
                    violation.description);
    auto* added = details.add_field_violations();
    added->set_field(ValidUtf8(violation.field));
    added->set_description(ValidUtf8(violation.description));
  }
  absl::Status status = absl::InvalidArgumentError(message);
  status.SetPayload(kBadRequestUrl, absl::Cord(details.SerializeAsString()));
  return status;
}

std::vector<FieldViolation> FieldViolations(const absl::Status& status) {
  std::vector<FieldViolation> violations;
  const auto payload = status.GetPayload(kBadRequestUrl);
  google::rpc::BadRequest details;
  if (!payload || !details.ParseFromString(std::string(*payload))) return violations;
  for (const auto& violation : details.field_violations()) {
    violations.push_back({violation.field(), violation.description()});
  }
  return violations;
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const auto code = static_cast<grpc::StatusCode>(status.code());
  google::rpc::Status wire;
  wire.set_code(static_cast<int>(status.code()));
  wire.set_message(ValidUtf8(status.message(), kMaxStatusBytes));
  size_t detail_bytes = 0;
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    detail_bytes += payload.size();
    if (detail_bytes > kMaxDetailBytes) return;
    auto* detail = wire.add_details();
    detail->set_type_url(std::string(url));
    detail->set_value(std::string(payload));
  });
  // A character beyond ASCII takes three times its bytes.
  while (TrailerBytes(wire) > kMaxTrailerBytes) {
    wire.set_message(ValidUtf8(wire.message(), wire.message().size() * 3 / 4));
  }
  if (wire.details_size() == 0) return grpc::Status(code, wire.message());
  return grpc::Status(code, wire.message(), wire.SerializeAsString());
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status converted(static_cast<absl::StatusCode>(status.error_code()),
                         status.error_message());
  google::rpc::Status wire;
  if (!status.error_details().empty() && wire.ParseFromString(status.error_details())) {
    for (const auto& detail : wire.details()) {
      converted.SetPayload(detail.type_url(), absl::Cord(detail.value()));
    }
  }
  return converted;
}

absl::Status FromServer(const grpc::Status& status) {
  const absl::Status converted = FromGrpcStatus(status);
  return absl::IsCancelled(converted) ? absl::UnavailableError("the server dropped the call")
                                      : converted;
}

}  // namespace d2g::common
