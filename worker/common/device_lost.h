// The mark of a failure after which this process can compute nothing more.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"

namespace d2g {

inline constexpr char kDeviceLostPayload[] = "d2g/device-lost";

// INTERNAL, marked: the GPU's context is gone with all that it held, until the process is started
// anew.
inline absl::Status DeviceLostError(absl::string_view message) {
  absl::Status status = absl::InternalError(message);
  status.SetPayload(kDeviceLostPayload, absl::Cord());
  return status;
}

inline bool IsDeviceLost(const absl::Status& status) {
  return status.GetPayload(kDeviceLostPayload).has_value();
}

}  // namespace d2g
