// Devices by name.
#pragma once

#include <string>

#include <ATen/ATen.h>

#include "absl/status/statusor.h"

namespace d2g::simulate {

// "cpu", "cuda:N", "cuda" (the first) or "auto" (the first GPU if there is one, else the CPU).
// INVALID_ARGUMENT names what is not there.
absl::StatusOr<at::Device> ParseDevice(const std::string& name);

}  // namespace d2g::simulate
