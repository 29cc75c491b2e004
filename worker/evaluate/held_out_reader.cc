#include "worker/evaluate/held_out_reader.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <span>
#include <utility>

#include "services/common/log.h"
#include "services/common/status_macros.h"
#include "services/dataset/holdout.h"
#include "services/dataset/index_set.h"
#include "services/dataset/latent_codec.h"
#include "services/dataset/noise.h"
#include "services/dataset/prompt_order.h"
#include "services/dataset/sharding.h"
#include "services/dataset/triple_check.h"
#include "services/store/client/append_limits.h"

namespace d2g::evaluate {
namespace {

using common::v1::DatasetRecipe;
using store::v1::Triple;

bool IsAboutTheTriple(const absl::Status& status) {
  return status.code() == absl::StatusCode::kDataLoss ||
         status.code() == absl::StatusCode::kNotFound;
}

// Reads what can be read of `indices`; those that are damaged or gone are missing in the answer.
absl::Status ReadSound(const ReadTriples& read, int shard, const std::vector<int64_t>& indices,
                       std::map<int64_t, Triple>* found) {
  absl::StatusOr<std::vector<Triple>> triples = read(shard, indices);
  if (triples.ok()) {
    for (Triple& triple : *triples) {
      const int64_t index = triple.index();
      (*found)[index] = std::move(triple);
    }
    return absl::OkStatus();
  }
  if (!IsAboutTheTriple(triples.status())) return triples.status();
  if (indices.size() == 1) {
    common::LogWarn("held-out triple left out", {{"index", std::to_string(indices[0])},
                                                 {"error", triples.status().ToString()}});
    return absl::OkStatus();
  }
  for (const int64_t index : indices) {
    D2G_RETURN_IF_ERROR(ReadSound(read, shard, {index}, found));
  }
  return absl::OkStatus();
}

absl::Status Unpack(const DatasetRecipe& recipe, const Triple& triple, std::span<float> z,
                    std::span<float> x) {
  dataset::FillNoise(recipe.seed(), triple.index(), z);
  return dataset::UnpackTriple(triple, recipe, triple.index(), z, x);
}

}  // namespace

absl::StatusOr<HeldOut> ReadHeldOut(const coordinator::v1::EvaluateWork& work,
                                    const std::vector<std::string>& prompts,
                                    const ReadTriples& read,
                                    const std::function<absl::Status()>& on_read) {
  const DatasetRecipe& recipe = work.recipe();
  if (recipe.holdout_every() < 1) {
    return absl::InvalidArgumentError("holdout_every is " + std::to_string(recipe.holdout_every()) +
                                      ": the dataset holds out nothing to evaluate on");
  }
  if (static_cast<int64_t>(prompts.size()) != recipe.prompt_count()) {
    return absl::InvalidArgumentError("the prompt list has " + std::to_string(prompts.size()) +
                                      " lines, the dataset's recipe says " +
                                      std::to_string(recipe.prompt_count()));
  }
  dataset::IndexSet sealed;
  for (const common::v1::IndexRange& range : work.sealed()) {
    sealed.Add(range.begin(), range.end());
  }
  const std::vector<int64_t> wanted =
      dataset::HeldOutIndices(sealed, recipe.holdout_every(), work.spec().evaluate().pictures());

  std::map<int, std::vector<int64_t>> of_shard;
  for (const int64_t index : wanted) {
    of_shard[dataset::ShardOf(recipe, index)].push_back(index);
  }
  std::map<int64_t, Triple> found;
  const auto indices_per_read = static_cast<size_t>(store::IndicesPerRead(recipe));
  for (const auto& [shard, indices] : of_shard) {
    for (size_t begin = 0; begin < indices.size(); begin += indices_per_read) {
      const size_t end = std::min(begin + indices_per_read, indices.size());
      D2G_RETURN_IF_ERROR(ReadSound(read, shard,
                                    {indices.begin() + static_cast<ptrdiff_t>(begin),
                                     indices.begin() + static_cast<ptrdiff_t>(end)},
                                    &found));
      D2G_RETURN_IF_ERROR(on_read());
    }
  }

  HeldOut held_out;
  const size_t elements = static_cast<size_t>(dataset::LatentElements(recipe));
  std::vector<float> z(found.size() * elements), x(found.size() * elements);
  for (const auto& [index, triple] : found) {
    const size_t offset = held_out.indices.size() * elements;
    const absl::Status unpacked = Unpack(recipe, triple, std::span(z).subspan(offset, elements),
                                         std::span(x).subspan(offset, elements));
    if (!unpacked.ok()) {
      common::LogWarn("held-out triple left out",
                      {{"index", std::to_string(index)}, {"error", unpacked.ToString()}});
      continue;
    }
    held_out.indices.push_back(index);
    held_out.prompt_of.push_back(
        dataset::PromptIndexOf(recipe.seed(), index, recipe.prompt_count()));
    held_out.prompts.push_back(prompts[static_cast<size_t>(held_out.prompt_of.back())]);
  }
  if (held_out.size() < 2) {
    return absl::FailedPreconditionError("only " + std::to_string(held_out.size()) +
                                         " held-out triples can be read, evaluation needs 2");
  }
  auto tensor = [&](std::vector<float>& values) {
    return at::from_blob(values.data(),
                         {held_out.size(), recipe.latent_channels(), recipe.latent_height(),
                          recipe.latent_width()},
                         at::kFloat)
        .clone();
  };
  held_out.z = tensor(z);
  held_out.x = tensor(x);
  return held_out;
}

}  // namespace d2g::evaluate
