// The kinds of task that workers lease, each with what depends on it.
#pragma once

#include <array>
#include <cstddef>
#include <string>

#include "d2g/common/v1/recipe.pb.h"
#include "d2g/coordinator/v1/job.pb.h"
#include "d2g/coordinator/v1/task_service.pb.h"

namespace d2g::coordinator {

struct TaskKindFacts {
  v1::TaskKind kind;
  v1::Stage stage;
  // The verb: in descriptions of tasks, in "no workers that simulate", and in metrics.
  const char* verb;
};

// In the order in which a worker that takes several is given them: what ends a job comes first.
inline constexpr std::array<TaskKindFacts, 3> kTaskKinds = {{
    {v1::TASK_KIND_EXPORT, v1::STAGE_EXPORT, "export"},
    {v1::TASK_KIND_EVALUATE, v1::STAGE_EVALUATE, "evaluate"},
    {v1::TASK_KIND_SIMULATE, v1::STAGE_SIMULATE, "simulate"},
}};

// REQUIRES: a kind of kTaskKinds, which every lease and failure has.
constexpr const TaskKindFacts& FactsOf(int kind) {
  for (const TaskKindFacts& facts : kTaskKinds) {
    if (facts.kind == kind) return facts;
  }
  return kTaskKinds[0];
}

// A task as people read of it: "simulate [0, 16)", "export".
std::string DescribeTask(int kind, const common::v1::IndexRange& range);

// Something for each kind or stage, indexed by the value of its enum.
template <typename T>
using ByKind = std::array<T, v1::TaskKind_ARRAYSIZE>;
template <typename T>
using ByStage = std::array<T, v1::Stage_ARRAYSIZE>;

}  // namespace d2g::coordinator
