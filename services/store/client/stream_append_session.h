// AppendSession over gRPC; made by TripleClient::Append.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "d2g/store/v1/triple_service.grpc.pb.h"
#include "services/store/client/append_session.h"

namespace d2g::store {

// Opens the stream, retrying until `deadline` while the shard is unreachable. `stub` and `stop`
// (may be null) must outlive the session; `address` is for messages.
absl::StatusOr<std::unique_ptr<AppendSession>> OpenStreamAppendSession(
    v1::TripleService::Stub* stub, const v1::AppendTriplesRequest::Open& open,
    const std::string& address, const absl::Notification* stop, absl::Time deadline);

}  // namespace d2g::store
