// Fills in and checks a message by the rules that stand at its fields (d2g/common/v1/rule.proto).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "services/common/grpc_status.h"

namespace d2g::spec {

inline constexpr size_t kMaxPathBytes = 4096;

// The bad fields of a message, while it is being checked. Not thread-safe.
class FieldChecker {
 public:
  // `root` is put before every field's name: "spec" gives "spec.train.steps".
  explicit FieldChecker(std::string root) : root_(std::move(root)) {}

  // Takes the default for each field that is not given, makes paths normal, and notes every field
  // that its own rule refuses. Nested messages of d2g's are made where they are absent, so that
  // their defaults stand too.
  void ApplyRules(google::protobuf::Message* message);

  // For what takes several fields to decide. `field` is "train.steps".
  void Fail(std::string_view field, std::string description);
  // Notes `value` unless it is from `least` to `most`.
  void InRange(std::string_view field, int64_t value, int64_t least, int64_t most);
  // Notes a required value that is empty. True when there is one.
  bool Required(std::string_view field, std::string_view value);
  // Nothing was noted of the field.
  bool IsGood(std::string_view field) const;

  bool ok() const { return violations_.empty(); }
  std::vector<common::FieldViolation> Take() { return std::move(violations_); }

 private:
  void Walk(const std::string& prefix, google::protobuf::Message* message);
  void CheckField(const std::string& name, const google::protobuf::FieldDescriptor& field,
                  google::protobuf::Message* message);

  const std::string root_;
  std::vector<common::FieldViolation> violations_;
};

// The largest value that the rule of a whole number allows. REQUIRES: there is one.
int64_t Largest(const google::protobuf::Descriptor& type, const std::string& field);

// Called with "train.regression.features_path" and the path.
using PathTransform =
    std::function<absl::StatusOr<std::string>(const std::string& field, const std::string& path)>;

// Replaces each path that the message holds, at any depth, by what `transform` makes of it; stops
// at its first error. Which fields are paths is their rules' word.
absl::Status TransformPaths(google::protobuf::Message* message, const PathTransform& transform);

}  // namespace d2g::spec
