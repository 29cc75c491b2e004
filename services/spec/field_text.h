// A single value of a message as text, the way a job file spells it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"

namespace d2g::spec {

// Sets the field, or adds to a repeated one. Whole numbers may be written as 2048, 1e6 or 2048.0;
// an enum's value by its short name, its full name or its number. INVALID_ARGUMENT says what was
// expected and what was found, but not where: the caller knows that. REQUIRES: the field is of
// `message`'s type.
absl::Status SetFieldFromText(std::string_view text, const google::protobuf::FieldDescriptor& field,
                              google::protobuf::Message* message);

// The value's name in lower case without the prefix that all values of its enum share: "fp16" for
// DTYPE_FP16.
std::string ShortName(const google::protobuf::EnumValueDescriptor& value);

// Short names of all values but the one with number 0, which means "not set".
std::vector<std::string> ShortNames(const google::protobuf::EnumDescriptor& type);

}  // namespace d2g::spec
