// Where d2g itself lies; its sister programs lie next to it.
#pragma once

#include <string>

namespace d2g::cli {

// The folder of the running program, without a trailing slash; "." when /proc is not there.
std::string OwnFolder();

}  // namespace d2g::cli
