#include "coordinator/spec/job_output.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/output_folder.h"
#include "services/common/path_policy.h"

namespace d2g::coordinator {
namespace {

using common::OutputOwner;

constexpr char kChoice[] = ": choose another folder, or set overwrite to take it over";

// Whether the files of an ended job are still where it put them.
bool StillThere(const KnownOutput& output) {
  const auto owner = common::FindOutputOwner(output.path, output.job);
  return owner.ok() && owner->job == output.job;
}

}  // namespace

JobOutput CheckJobOutput(const v1::JobSpec& spec, const std::string& path,
                         const std::vector<KnownOutput>& ended) {
  JobOutput output;
  const auto refuse = [&](std::string why) {
    output.violations.push_back(
        {"spec.output_dir", absl::StrCat("\"", spec.output_dir(), "\" ", std::move(why))});
  };
  const absl::StatusOr<OutputOwner> owner = common::FindOutputOwner(path);
  if (!owner.ok()) {
    refuse(absl::StrCat("cannot be used: ", owner.status().message()));
    return output;
  }
  if (!owner->source.empty()) {
    if (spec.overwrite()) {
      output.replaces = owner->job;
    } else {
      refuse(absl::StrCat("holds the output of ", owner->Describe(), kChoice));
    }
    return output;
  }
  if (spec.overwrite()) return output;
  if (const OutputOwner around = common::FindOutputAround(path); !around.source.empty()) {
    refuse(absl::StrCat("lies within the output of ", around.Describe(), kChoice));
    return output;
  }
  for (const KnownOutput& known : ended) {
    if (!StillThere(known)) continue;
    refuse(absl::StrCat(common::RelationOf(path, known.path), " ", known.path,
                        ", where the output of ", known.job, " is", kChoice));
    return output;
  }
  return output;
}

}  // namespace d2g::coordinator
