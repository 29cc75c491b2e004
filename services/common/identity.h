// Who a process says it is.
#pragma once

#include <string>

namespace d2g::common {

// The host's name; "unknown" when the system does not tell.
std::string NodeName();

// "{prefix}-{16 hex digits}", drawn anew for each process.
std::string RandomId(const std::string& prefix);

}  // namespace d2g::common
