#include "worker/rank/batch_reader.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <span>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/clock.h"
#include "services/common/deadline.h"
#include "services/common/log.h"
#include "services/common/retry.h"
#include "services/common/status_macros.h"
#include "services/dataset/latent_codec.h"
#include "services/dataset/noise.h"
#include "services/dataset/prompt_order.h"
#include "services/dataset/sharding.h"
#include "services/dataset/triple_check.h"
#include "services/store/client/append_limits.h"

namespace d2g::rank {
namespace {

int64_t MaxPending(const BatchReaderOptions& options) {
  const dataset::Range slice =
      dataset::RankSlice(options.world_size, options.rank, options.train.global_batch());
  const int64_t batch_bytes =
      std::max<int64_t>(1, 2 * slice.size() * dataset::LatentElements(options.recipe) *
                               static_cast<int64_t>(sizeof(float)));
  return std::max<int64_t>(2, options.max_bytes / batch_bytes);
}

// A snapshot holds what was sealed: what its shard does not have went with a lost volume and is
// being simulated anew, and until the shard's new store is known, it refuses calls for the old one.
bool IsLostVolume(const absl::Status& status) {
  return absl::IsNotFound(status) || absl::IsFailedPrecondition(status);
}

}  // namespace

BatchReader::BatchReader(BatchReaderOptions options, TrainingData* data)
    : options_(std::move(options)),
      data_(data),
      latent_elements_(dataset::LatentElements(options_.recipe)),
      indices_per_read_(store::IndicesPerRead(options_.recipe)),
      max_pending_(MaxPending(options_)),
      reads_(options_.recipe.shard_count()) {
  threads_.emplace_back([this] { PlanBatches(); });
  for (int shard = 0; shard < options_.recipe.shard_count(); ++shard) {
    for (int call = 0; call < options_.calls_per_shard; ++call) {
      threads_.emplace_back([this, shard] { ReadFromShard(shard); });
    }
  }
}

BatchReader::~BatchReader() {
  Stop();
  for (std::thread& thread : threads_) thread.join();
}

void BatchReader::Stop() {
  absl::MutexLock lock(&mutex_);
  if (stopping_) return;
  stopping_ = true;
  stop_.Notify();
}

void BatchReader::Fail(const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  error_.Update(status);
}

bool BatchReader::HasOutcome() const {
  return (!pending_.empty() && pending_.front()->reads_left == 0) || stopping_ || !error_.ok() ||
         (all_planned_ && pending_.empty());
}

bool BatchReader::IsReady() const {
  absl::MutexLock lock(&mutex_);
  return HasOutcome();
}

absl::Duration BatchReader::wait_time() const {
  absl::MutexLock lock(&mutex_);
  return wait_time_;
}

bool BatchReader::WaitUntilReady(absl::Duration timeout) {
  const absl::Duration start = common::RealClock::Get()->SteadyNow();
  absl::MutexLock lock(&mutex_);
  const bool ready =
      mutex_.AwaitWithTimeout(absl::Condition(this, &BatchReader::HasOutcome), timeout);
  wait_time_ += common::RealClock::Get()->SteadyNow() - start;
  return ready;
}

absl::StatusOr<RankBatch> BatchReader::Next() {
  WaitUntilReady(absl::InfiniteDuration());
  absl::MutexLock lock(&mutex_);
  if (stopping_) return absl::CancelledError("reading was stopped");
  if (!pending_.empty() && pending_.front()->reads_left == 0) {
    RankBatch batch = std::move(pending_.front()->batch);
    pending_.pop_front();
    return batch;
  }
  if (!error_.ok()) return error_;
  return absl::OutOfRangeError(absl::StrCat("all ", options_.batches, " batches have been read"));
}

void BatchReader::PlanBatches() {
  DataCursor cursor = options_.start;
  for (int64_t planned = 0; planned < options_.batches; ++planned) {
    const bool needs_snapshot = !epoch_plan_ || cursor.batch >= epoch_plan_->num_batches();
    {
      struct Wait {
        const BatchReader* reader;
        size_t limit;
      } wait{this, static_cast<size_t>(needs_snapshot ? std::min(kSnapshotLead, max_pending_ - 1)
                                                      : max_pending_ - 1)};
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(
          +[](Wait* wait) ABSL_NO_THREAD_SAFETY_ANALYSIS {
            return wait->reader->stopping_ || wait->reader->pending_.size() <= wait->limit;
          },
          &wait));
      if (stopping_) return;
    }
    if (epoch_plan_ && cursor.batch >= epoch_plan_->num_batches()) cursor = {cursor.epoch + 1, 0};
    if (needs_snapshot) {
      absl::Status status = PlanEpoch(cursor.epoch);
      // A checkpoint taken after an epoch's last batch points just past it.
      if (status.ok() && cursor.batch >= epoch_plan_->num_batches()) {
        cursor = {cursor.epoch + 1, 0};
        status = PlanEpoch(cursor.epoch);
      }
      if (!status.ok()) return Fail(status);
    }
    std::vector<std::deque<Read>> reads(options_.recipe.shard_count());
    std::unique_ptr<PendingBatch> batch = StartBatch(cursor, &reads);
    absl::MutexLock lock(&mutex_);
    pending_.push_back(std::move(batch));
    for (size_t shard = 0; shard < reads.size(); ++shard) {
      std::move(reads[shard].begin(), reads[shard].end(), std::back_inserter(reads_[shard]));
    }
    ++cursor.batch;
  }
  absl::MutexLock lock(&mutex_);
  all_planned_ = true;
}

absl::Status BatchReader::PlanEpoch(int64_t epoch) {
  D2G_ASSIGN_OR_RETURN(dataset::IndexSet sealed, data_->Snapshot(epoch, stop_));
  dataset::EpochPlanOptions plan;
  plan.sealed = std::move(sealed);
  plan.holdout_every = options_.recipe.holdout_every();
  plan.seed = options_.train.seed();
  plan.epoch = epoch;
  plan.global_batch = options_.train.global_batch();
  plan.prompt_of = [this](int64_t index) {
    return options_.prompt_class(
        dataset::PromptIndexOf(options_.recipe.seed(), index, options_.recipe.prompt_count()));
  };
  epoch_plan_.emplace(std::move(plan));
  if (epoch_plan_->num_batches() == 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        "epoch ", epoch, " has ", epoch_plan_->training_count(),
        " sealed training triples, less than a global batch of ", options_.train.global_batch()));
  }
  common::LogInfo("planned an epoch", {{"epoch", epoch},
                                       {"triples", epoch_plan_->training_count()},
                                       {"batches", epoch_plan_->num_batches()}});
  return absl::OkStatus();
}

std::unique_ptr<BatchReader::PendingBatch> BatchReader::StartBatch(
    const DataCursor& cursor, std::vector<std::deque<Read>>* reads) const {
  const common::v1::DatasetRecipe& recipe = options_.recipe;
  const std::vector<dataset::PlanItem> items = epoch_plan_->Batch(cursor.batch);
  const dataset::Range slice =
      dataset::RankSlice(options_.world_size, options_.rank, options_.train.global_batch());

  auto pending = std::make_unique<PendingBatch>();
  RankBatch& batch = pending->batch;
  batch.cursor = cursor;
  batch.next = {cursor.epoch, cursor.batch + 1};
  batch.first_position = slice.begin;
  batch.z.resize(slice.size() * latent_elements_);
  batch.x.resize(slice.size() * latent_elements_);
  batch.weight.assign(slice.size(), 0);
  const auto prompt_of = [&](int64_t index) {
    return dataset::PromptIndexOf(recipe.seed(), index, recipe.prompt_count());
  };
  for (int64_t position = slice.begin; position < slice.end; ++position) {
    const dataset::PlanItem& item = items[position];
    RankSample sample;
    sample.index = item.index;
    sample.prompt = prompt_of(item.index);
    if (item.mismatch_position >= 0) {
      sample.other_prompt = prompt_of(items[item.mismatch_position].index);
    }
    if (item.noise_mismatch_position >= 0) {
      sample.other_noise_index = items[item.noise_mismatch_position].index;
    }
    sample.r1 = item.r1;
    sample.augmentation_seed = item.augmentation_seed;
    const int64_t row = static_cast<int64_t>(batch.samples.size());
    batch.samples.push_back(sample);

    std::deque<Read>& of_shard = (*reads)[dataset::ShardOf(recipe, item.index)];
    if (of_shard.empty() || std::ssize(of_shard.back().rows) == indices_per_read_) {
      of_shard.push_back({pending.get(), {}});
      ++pending->reads_left;
    }
    of_shard.back().rows.push_back(row);
  }
  return pending;
}

void BatchReader::ReadFromShard(int shard) {
  struct Wait {
    const BatchReader* reader;
    int shard;
  } wait{this, shard};
  while (true) {
    Read read;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(
          +[](Wait* wait) ABSL_NO_THREAD_SAFETY_ANALYSIS {
            return wait->reader->stopping_ || !wait->reader->reads_[wait->shard].empty();
          },
          &wait));
      if (stopping_) return;
      read = std::move(reads_[shard].front());
      reads_[shard].pop_front();
    }
    if (const absl::Status status = Fetch(shard, read); !status.ok()) return Fail(status);
    absl::MutexLock lock(&mutex_);
    --read.batch->reads_left;
  }
}

absl::Status BatchReader::Fetch(int shard, const Read& read) {
  RankBatch& batch = read.batch->batch;
  std::vector<int64_t> indices;
  for (const int64_t row : read.rows) indices.push_back(batch.samples[row].index);
  const absl::StatusOr<std::vector<store::v1::Triple>> triples = ReadWithRetry(shard, indices);
  if (absl::IsDataLoss(triples.status())) {
    if (read.rows.size() == 1) {
      Skip(read.batch, read.rows[0], triples.status());
      return absl::OkStatus();
    }
    // One bad triple fails the whole call: ask for each by itself.
    for (const int64_t row : read.rows) {
      D2G_RETURN_IF_ERROR(Fetch(shard, Read{read.batch, {row}}));
    }
    return absl::OkStatus();
  }
  D2G_RETURN_IF_ERROR(triples.status());
  if (triples->size() != indices.size()) {
    return absl::InternalError(absl::StrCat("shard ", shard, " answered ", triples->size(),
                                            " triples, asked for ", indices.size()));
  }
  // Rows of different reads are apart, so no lock is needed for the numbers.
  for (size_t i = 0; i < read.rows.size(); ++i) {
    const int64_t row = read.rows[i];
    const std::span<float> z(batch.z.data() + row * latent_elements_, latent_elements_);
    const std::span<float> x(batch.x.data() + row * latent_elements_, latent_elements_);
    dataset::FillNoise(options_.recipe.seed(), batch.samples[row].index, z);
    const absl::Status usable =
        dataset::UnpackTriple((*triples)[i], options_.recipe, batch.samples[row].index, z, x);
    if (usable.ok()) {
      batch.weight[row] = 1;
    } else {
      std::fill(x.begin(), x.end(), 0.0f);
      Skip(read.batch, row, usable);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<store::v1::Triple>> BatchReader::ReadWithRetry(
    int shard, const std::vector<int64_t>& indices) {
  std::vector<store::v1::Triple> triples;
  bool failed_before = false;
  common::RetryOptions retry;
  retry.stop = &stop_;
  const absl::Status status = common::RetryUntil(
      common::DeadlineIn(options_.give_up_after),
      [&]() -> absl::Status {
        absl::StatusOr<std::vector<store::v1::Triple>> answer = data_->ReadTriples(shard, indices);
        if (answer.ok()) {
          triples = *std::move(answer);
          return absl::OkStatus();
        }
        const bool lost = IsLostVolume(answer.status());
        if ((lost || common::IsRetryable(answer.status())) && !failed_before) {
          failed_before = true;
          common::LogWarn("a shard does not answer with the triples; trying again",
                          {{"shard", shard}, {"error", answer.status()}});
        }
        return lost ? absl::UnavailableError(answer.status().message()) : answer.status();
      },
      retry);
  if (!status.ok()) return common::Annotate(status, absl::StrCat("reading from shard ", shard));
  return triples;
}

void BatchReader::Skip(PendingBatch* batch, int64_t row, const absl::Status& why) {
  const int64_t index = batch->batch.samples[row].index;
  common::LogError("skipped a triple", {{"dataset_index", index}, {"error", why}});
  absl::MutexLock lock(&mutex_);
  batch->batch.skipped.push_back({index, std::string(why.message())});
}

}  // namespace d2g::rank
