#include "coordinator/state/task_kinds.h"

#include "absl/strings/str_cat.h"

namespace d2g::coordinator {

std::string DescribeTask(int kind, const common::v1::IndexRange& range) {
  if (kind != v1::TASK_KIND_SIMULATE) return FactsOf(kind).verb;
  return absl::StrCat(FactsOf(kind).verb, " [", range.begin(), ", ", range.end(), ")");
}

}  // namespace d2g::coordinator
