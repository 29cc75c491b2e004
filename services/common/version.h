// Which build this is.
#pragma once

namespace d2g::common {

// The project's version, "0.1.0".
const char* Version();

}  // namespace d2g::common
