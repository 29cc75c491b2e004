#include "services/dataset/epoch_plan.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>

#include "services/dataset/holdout.h"
#include "services/dataset/random.h"

namespace d2g::dataset {
namespace {

void Check(bool ok, const std::string& message) {
  if (!ok) throw std::invalid_argument(message);
}

std::vector<int32_t> ShuffledPositions(int64_t n, Philox& random) {
  std::vector<int32_t> positions(n);
  std::iota(positions.begin(), positions.end(), 0);
  for (int64_t i = n - 1; i > 0; --i) {
    std::swap(positions[i], positions[random.NextBelow(static_cast<uint32_t>(i + 1))]);
  }
  return positions;
}

// For each position another one with a different prompt, each used once. Positions are lined up by
// prompt, prompts in random order and shuffled within; turning that circle by the largest group's
// size moves every item out of its group. Where one group fills more than half of the circle, some
// of its items land in it again and get -1.
std::vector<int32_t> PromptDerangement(const std::vector<int64_t>& prompts, Philox& random) {
  const int64_t n = static_cast<int64_t>(prompts.size());
  const std::vector<int32_t> shuffled = ShuffledPositions(n, random);
  std::unordered_map<int64_t, int64_t> group_of_prompt;
  std::vector<std::vector<int32_t>> groups;
  for (const int32_t position : shuffled) {
    const auto [known, added] = group_of_prompt.try_emplace(prompts[position], groups.size());
    if (added) groups.emplace_back();
    groups[known->second].push_back(position);
  }
  std::vector<int32_t> circle;
  circle.reserve(n);
  int64_t largest = 0;
  for (const std::vector<int32_t>& group : groups) {
    circle.insert(circle.end(), group.begin(), group.end());
    largest = std::max<int64_t>(largest, static_cast<int64_t>(group.size()));
  }
  std::vector<int32_t> mismatch(n);
  for (int64_t i = 0; i < n; ++i) {
    const int32_t other = circle[(i + largest) % n];
    mismatch[circle[i]] = prompts[other] == prompts[circle[i]] ? -1 : other;
  }
  return mismatch;
}

std::vector<int32_t> Derangement(int64_t n, Philox& random) {
  if (n == 1) return {-1};
  const std::vector<int32_t> circle = ShuffledPositions(n, random);
  std::vector<int32_t> mismatch(n);
  for (int64_t i = 0; i < n; ++i) mismatch[circle[i]] = circle[(i + 1) % n];
  return mismatch;
}

}  // namespace

EpochPlan::EpochPlan(EpochPlanOptions options) : options_(std::move(options)) {
  const int64_t batch = options_.global_batch;
  Check(batch >= 1 && batch <= kMaxGlobalBatch, "global_batch is " + std::to_string(batch) +
                                                    "; must be 1 to " +
                                                    std::to_string(kMaxGlobalBatch));
  Check(options_.epoch >= 0, "epoch is " + std::to_string(options_.epoch) + "; must be at least 0");
  Check(options_.holdout_every >= 0,
        "holdout_every is " + std::to_string(options_.holdout_every) + "; must be at least 0");
  Check(options_.r1_every >= 0,
        "r1_every is " + std::to_string(options_.r1_every) + "; must be at least 0");
  Check(options_.prompt_of != nullptr, "an epoch plan needs prompt_of");
  const int64_t every = options_.holdout_every;
  for (const auto& [begin, end] : options_.sealed.ranges()) {
    const int64_t below = TrainingCountBelow(begin, every);
    training_before_.push_back(training_count_);
    training_below_.push_back(below);
    training_count_ += TrainingCountBelow(end, every) - below;
  }
  order_key_ = DeriveKey(options_.seed, Purpose::kOrder, static_cast<uint64_t>(options_.epoch));
}

int64_t EpochPlan::IndexAt(int64_t position) const {
  const auto after = std::upper_bound(training_before_.begin(), training_before_.end(), position);
  const size_t number = static_cast<size_t>(after - training_before_.begin()) - 1;
  return NthTrainingIndex(training_below_[number] + position - training_before_[number],
                          options_.holdout_every);
}

std::vector<int64_t> EpochPlan::BatchIndices(int64_t k) const {
  Check(k >= 0 && k < num_batches(), "batch " + std::to_string(k) + " of epoch " +
                                         std::to_string(options_.epoch) + ", which has " +
                                         std::to_string(num_batches()) + " batches");
  const FeistelPermutation order(training_count_, order_key_);
  std::vector<int64_t> indices(options_.global_batch);
  for (int64_t j = 0; j < options_.global_batch; ++j) {
    indices[j] = IndexAt(order(k * options_.global_batch + j));
  }
  return indices;
}

std::vector<PlanItem> EpochPlan::Batch(int64_t k) const {
  const std::vector<int64_t> indices = BatchIndices(k);
  const int64_t n = static_cast<int64_t>(indices.size());
  const uint64_t epoch = static_cast<uint64_t>(options_.epoch);
  const uint64_t batch = static_cast<uint64_t>(k);

  std::vector<int64_t> prompts(n);
  std::transform(indices.begin(), indices.end(), prompts.begin(), options_.prompt_of);
  Philox negatives(DeriveKey(options_.seed, Purpose::kNegatives, epoch), Purpose::kNegatives,
                   batch);
  const std::vector<int32_t> mismatch = PromptDerangement(prompts, negatives);
  const std::vector<int32_t> noise_mismatch = Derangement(n, negatives);

  const uint64_t augment_key = DeriveKey(options_.seed, Purpose::kAugment, epoch);
  std::vector<PlanItem> items(n);
  for (int64_t j = 0; j < n; ++j) {
    items[j] = {indices[j], mismatch[j], noise_mismatch[j], false,
                DeriveKey(augment_key, Purpose::kAugment, static_cast<uint64_t>(indices[j]))};
  }
  if (options_.r1_every > 0 && k % options_.r1_every == 0) {
    Philox r1(DeriveKey(options_.seed, Purpose::kR1, epoch), Purpose::kR1, batch);
    items[r1.NextBelow(static_cast<uint32_t>(n))].r1 = true;
  }
  return items;
}

Range RankSlice(int64_t world, int64_t rank, int64_t n) {
  Check(world >= 1 && rank >= 0 && rank < world && n >= 0,
        "rank " + std::to_string(rank) + " of " + std::to_string(world) +
            " cannot take a slice of " + std::to_string(n) + " samples");
  const int64_t share = n / world;
  const int64_t larger = n % world;
  const int64_t begin = rank * share + std::min(rank, larger);
  return {begin, begin + share + (rank < larger ? 1 : 0)};
}

}  // namespace d2g::dataset
