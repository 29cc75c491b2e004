// Messages as JSON text for scripts.
#pragma once

#include <string>

#include "google/protobuf/message.h"

namespace d2g::cli {

// protobuf's JSON mapping with names as in the .proto, indented, ended by \n. Fields at their
// default are written too, so that a script finds them.
std::string ToJson(const google::protobuf::Message& message);

}  // namespace d2g::cli
