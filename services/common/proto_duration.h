// Durations on the wire.
#pragma once

#include "absl/time/time.h"
#include "google/protobuf/duration.pb.h"

namespace d2g::common {

inline absl::Duration FromProto(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

}  // namespace d2g::common
