// Whether the triples of a dataset are all there, once each. Pure functions of what shards report.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "d2g/common/v1/recipe.pb.h"
#include "d2g/store/v1/triple_service.pb.h"

namespace d2g::cli {

// What one shard says about a dataset.
struct ShardReport {
  int32_t shard = 0;
  // Merged, ascending.
  std::vector<common::v1::IndexRange> sealed;
  // Triples that it holds, sealed or not.
  int64_t present = 0;
  // Triples whose checksum was recomputed.
  int64_t checked = 0;
  // Bad triples, as "INDEX: reason".
  std::vector<std::string> bad;
};

struct AuditResult {
  int64_t sealed = 0;
  int64_t present = 0;
  int64_t checked = 0;
  // One line a problem; at most kMaxProblems, the last then says how many more there are.
  std::vector<std::string> problems;
};

inline constexpr size_t kMaxProblems = 20;

// Problems: a bad triple; a sealed range on a shard that its block does not belong to (a triple
// stored twice, or in the wrong place); an index of [0, wanted) that no shard has sealed. `wanted`
// 0 checks no coverage.
AuditResult AuditShards(const common::v1::DatasetRecipe& recipe,
                        const std::vector<ShardReport>& shards, int64_t wanted);

}  // namespace d2g::cli
