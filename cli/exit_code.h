// How d2g ends: the exit codes that all programs share (services/common/program.h) and one more.
// The numbers are part of the command line's contract (docs/user-guide.md).
#pragma once

#include "services/common/program.h"

namespace d2g::cli {

using common::kExitBadInput;
using common::kExitCannotReach;
using common::kExitFailure;
using common::kExitOk;
using common::kExitStopped;
using common::kExitUsage;

// The job that was watched failed or was cancelled.
inline constexpr int kExitJobFailed = 5;

}  // namespace d2g::cli
