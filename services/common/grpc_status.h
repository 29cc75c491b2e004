// The only converters between absl::Status and grpc::Status, and the one kind of detail that errors
// carry: google.rpc.BadRequest, which names the bad fields.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace d2g::common {

// One bad field: its path in the request ("training.batch_size") and what is wrong with it, with
// the value and the limit.
struct FieldViolation {
  std::string field;
  std::string description;
};

// INVALID_ARGUMENT whose message reads "field: description; field: description" and which carries
// the violations as details. REQUIRES: at least one violation.
absl::Status BadRequest(const std::vector<FieldViolation>& violations);

// The violations that a status carries; none when it carries no (readable) details.
std::vector<FieldViolation> FieldViolations(const absl::Status& status);

// Keeps code, message and details. Over-long ones are cut so that they fit gRPC's trailers, and
// what is not UTF-8 is made so.
grpc::Status ToGrpcStatus(const absl::Status& status);

// The other way; unreadable details are dropped.
absl::Status FromGrpcStatus(const grpc::Status& status);

// The same for a call that this process did not cancel: CANCELLED then means that the server
// stopped, and becomes UNAVAILABLE.
absl::Status FromServer(const grpc::Status& status);

}  // namespace d2g::common
