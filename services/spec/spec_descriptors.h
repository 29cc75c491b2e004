// The job file's protos with their comments, embedded when the program is built.
#pragma once

#include <string_view>

namespace d2g::spec {

// A serialized google.protobuf.FileDescriptorSet with source information.
std::string_view SpecDescriptors();

}  // namespace d2g::spec
