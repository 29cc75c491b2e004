#include "cli/shard_audit.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "cli/format.h"
#include "services/dataset/sharding.h"

namespace d2g::cli {
namespace {

using common::v1::IndexRange;

class Problems {
 public:
  void Add(std::string problem) {
    if (++count_ < kMaxProblems) list_.push_back(std::move(problem));
  }
  std::vector<std::string> Take() {
    if (count_ >= kMaxProblems) {
      list_.push_back(absl::StrCat("and ", CountText(count_ - kMaxProblems + 1), " more"));
    }
    return std::move(list_);
  }

 private:
  std::vector<std::string> list_;
  size_t count_ = 0;
};

std::string RangeText(int64_t begin, int64_t end) {
  return absl::StrCat("[", begin, ", ", end, ")");
}

// Cuts a range at block borders.
template <typename Visit>
void ForEachBlock(const IndexRange& range, int64_t block_size, Visit visit) {
  for (int64_t begin = range.begin(); begin < range.end();) {
    const int64_t block = begin / block_size;
    const int64_t end = std::min(range.end(), (block + 1) * block_size);
    visit(block, begin, end);
    begin = end;
  }
}

}  // namespace

AuditResult AuditShards(const common::v1::DatasetRecipe& recipe,
                        const std::vector<ShardReport>& shards, int64_t wanted) {
  AuditResult result;
  Problems problems;
  std::vector<std::pair<int64_t, int64_t>> sealed;
  const int64_t block_size = std::max(1, recipe.block_size());
  for (const ShardReport& shard : shards) {
    result.present += shard.present;
    result.checked += shard.checked;
    for (const std::string& bad : shard.bad) {
      problems.Add(absl::StrCat("shard ", shard.shard, ": triple ", bad));
    }
    for (const IndexRange& range : shard.sealed) {
      result.sealed += range.end() - range.begin();
      ForEachBlock(range, block_size, [&](int64_t block, int64_t begin, int64_t end) {
        if (dataset::ShardOfBlock(recipe, block) == shard.shard) {
          sealed.emplace_back(begin, end);
        } else {
          problems.Add(absl::StrCat("shard ", shard.shard, ": holds ", RangeText(begin, end),
                                    ", which belong to shard ",
                                    dataset::ShardOfBlock(recipe, block)));
        }
      });
    }
  }
  std::sort(sealed.begin(), sealed.end());
  int64_t covered = 0;
  for (const auto& [begin, end] : sealed) {
    if (covered >= wanted) break;
    if (begin > covered) {
      problems.Add(absl::StrCat("missing: ", RangeText(covered, std::min(begin, wanted))));
    }
    covered = std::max(covered, end);
  }
  if (covered < wanted) problems.Add(absl::StrCat("missing: ", RangeText(covered, wanted)));
  result.problems = problems.Take();
  return result;
}

}  // namespace d2g::cli
