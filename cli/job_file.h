// Job files: YAML or JSON text that maps to d2g.coordinator.v1.JobSpec.
//
// The mapping is protobuf's JSON mapping: field names in snake_case or lowerCamelCase, enums by
// name or number, 64-bit integers as numbers or strings, null as "not set". YAML is read as a
// superset of JSON. A field that JobSpec lacks, a field given twice and a value of another type are
// refused; the error names the file, the line, the field's path and, for a misspelt name, the known
// names near it. Limits on values are the coordinator's business.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "d2g/coordinator/v1/job.pb.h"

namespace d2g::cli {

// Job files larger than this are refused.
inline constexpr size_t kMaxJobFileBytes = size_t{1} << 20;

// Parses `text`; `file` is the name that errors carry. INVALID_ARGUMENT says where and why.
absl::StatusOr<coordinator::v1::JobSpec> ParseJobFile(std::string_view text,
                                                      const std::string& file);

// Sets one field from "train.steps=100", as --set does. INVALID_ARGUMENT as above.
absl::Status SetJobField(std::string_view assignment, coordinator::v1::JobSpec* spec);

// Makes every relative path in `spec` absolute, taking it from `folder`; "~" and what follows "~/"
// are the user's home folder. Empty paths stay empty. INVALID_ARGUMENT, naming the field, for
// another user's home and for a variable, which nothing would replace.
absl::Status ResolvePaths(const std::string& folder, coordinator::v1::JobSpec* spec);

// Reads and parses the file and resolves its paths against its own folder. NOT_FOUND when it
// cannot be read, INVALID_ARGUMENT, naming the file, for what is wrong in it.
absl::StatusOr<coordinator::v1::JobSpec> LoadJobFile(const std::string& path);

}  // namespace d2g::cli
