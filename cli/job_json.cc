#include "cli/job_json.h"

#include "google/protobuf/util/json_util.h"

namespace d2g::cli {

std::string ToJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string json;
  const auto status = google::protobuf::util::MessageToJsonString(message, &json, options);
  // Only an Any of unknown type fails, and none of our messages has one.
  return status.ok() ? json : "{}\n";
}

}  // namespace d2g::cli
