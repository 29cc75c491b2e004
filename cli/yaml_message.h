// YAML text into a protobuf message, field by field, so that errors can say where and what.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "google/protobuf/message.h"

namespace d2g::cli {

// Fills `message` from a YAML (or JSON) document by protobuf's JSON mapping. Supports nested
// messages, repeated fields and all scalar kinds (services/spec/field_text.h says how they are
// spelled); map fields and bytes are refused as unsupported.
// INVALID_ARGUMENT: "FILE:LINE: FIELD.PATH: what is wrong". `message` is then half filled.
absl::Status ParseYamlMessage(std::string_view text, const std::string& file,
                              google::protobuf::Message* message);

// Sets the scalar field at `path` ("train.steps") from text. `origin` stands for the file in
// errors.
absl::Status SetMessageField(std::string_view path, std::string_view value,
                             const std::string& origin, google::protobuf::Message* message);

}  // namespace d2g::cli
