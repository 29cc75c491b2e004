// What goes on beside the solving of a batch, and what becomes of errors there.
#include "worker/simulate/batch_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <thread>
#include <utility>

#include "absl/synchronization/notification.h"
#include "tests/testing/status_matchers.h"

namespace d2g::simulate {
namespace {

using ::d2g::testing::IsOk;
using ::d2g::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr absl::Duration kLong = absl::Seconds(20);

common::v1::DatasetRecipe Recipe() {
  common::v1::DatasetRecipe recipe;
  recipe.set_latent_channels(1);
  recipe.set_latent_height(2);
  recipe.set_latent_width(2);
  recipe.set_storage_dtype(common::v1::DTYPE_FP32);
  return recipe;
}

SolvedBatch Batch(const std::vector<int64_t>& indices, double value = 1) {
  const auto count = static_cast<int64_t>(indices.size());
  DeviceSpan span(at::kCPU);
  span.End();
  return {indices, std::vector<int64_t>(indices.size(), 0), at::zeros({count, 1, 2, 2}),
          at::full({count, 1, 2, 2}, value), std::move(span)};
}

// A sink that takes a batch when it is let, and ends with CANCELLED once cancelled.
class SlowSink {
 public:
  TripleSink sink() {
    return {.write =
                [this](std::vector<store::v1::Triple> triples) {
                  absl::MutexLock lock(&mutex_);
                  ++calls_;
                  const auto let = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
                    return allowed_ > 0 || cancelled_;
                  };
                  mutex_.Await(absl::Condition(&let));
                  if (cancelled_) return absl::CancelledError("cancelled");
                  --allowed_;
                  for (const auto& triple : triples) taken_.push_back(triple.index());
                  return status_;
                },
            .cancel =
                [this] {
                  absl::MutexLock lock(&mutex_);
                  cancelled_ = true;
                }};
  }
  void Allow(int batches) {
    absl::MutexLock lock(&mutex_);
    allowed_ += batches;
  }
  void Answer(absl::Status status) {
    absl::MutexLock lock(&mutex_);
    status_ = std::move(status);
  }
  // Once `calls` writes have begun.
  bool WaitForCalls(int calls) {
    absl::MutexLock lock(&mutex_);
    const auto begun = [&]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return calls_ >= calls; };
    return mutex_.AwaitWithTimeout(absl::Condition(&begun), kLong);
  }
  std::vector<int64_t> taken() {
    absl::MutexLock lock(&mutex_);
    return taken_;
  }
  bool cancelled() {
    absl::MutexLock lock(&mutex_);
    return cancelled_;
  }

 private:
  absl::Mutex mutex_;
  int allowed_ ABSL_GUARDED_BY(mutex_) = 0;
  int calls_ ABSL_GUARDED_BY(mutex_) = 0;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  std::vector<int64_t> taken_ ABSL_GUARDED_BY(mutex_);
};

class BatchWriterTest : public ::testing::Test {
 protected:
  BatchWriterTest()
      : metrics_("test"),
        simulate_(&metrics_),
        writer_(std::make_unique<BatchWriter>(Recipe(), sink_.sink(), &simulate_)) {}

  common::Metrics metrics_;
  SimulateMetrics simulate_;
  SlowSink sink_;
  std::unique_ptr<BatchWriter> writer_;
};

TEST_F(BatchWriterTest, TheSolverGoesOnWhileABatchIsWritten) {
  // The sink holds the first batch: its writer has it in hand, and the caller is free.
  ASSERT_THAT(writer_->Write(Batch({3, 4})), IsOk());
  ASSERT_TRUE(sink_.WaitForCalls(1));
  EXPECT_THAT(sink_.taken(), IsEmpty());

  // The second one waits for it.
  absl::Notification second;
  std::thread solver([&] {
    EXPECT_THAT(writer_->Write(Batch({5})), IsOk());
    second.Notify();
  });
  EXPECT_FALSE(second.WaitForNotificationWithTimeout(absl::Milliseconds(50)));
  sink_.Allow(1);
  EXPECT_TRUE(second.WaitForNotificationWithTimeout(kLong));
  solver.join();
  EXPECT_THAT(sink_.taken(), ElementsAre(3, 4));

  sink_.Allow(1);
  EXPECT_THAT(writer_->Flush(), IsOk());
  EXPECT_THAT(sink_.taken(), ElementsAre(3, 4, 5));
  std::vector<int64_t> counts;
  for (const auto& solved : writer_->TakeSolved()) {
    counts.push_back(solved.count);
    EXPECT_GE(solved.elapsed, absl::ZeroDuration());
  }
  EXPECT_THAT(counts, ElementsAre(2, 1));
  EXPECT_THAT(writer_->TakeSolved(), IsEmpty());
  EXPECT_EQ(simulate_.triples.Value(), 3);
  EXPECT_EQ(simulate_.batches.Value(), 2);
  EXPECT_EQ(simulate_.appended_bytes.Value(), 3 * 4 * 4);
  writer_.reset();
  EXPECT_FALSE(sink_.cancelled());
}

TEST_F(BatchWriterTest, AnErrorOfTheSinkStays) {
  sink_.Allow(3);
  sink_.Answer(absl::UnavailableError("shard 2: away"));
  ASSERT_THAT(writer_->Write(Batch({0})), IsOk());
  const auto away = StatusIs(absl::StatusCode::kUnavailable, HasSubstr("shard 2: away"));
  EXPECT_THAT(writer_->Flush(), away);
  EXPECT_THAT(writer_->status(), away);
  sink_.Answer(absl::OkStatus());
  EXPECT_THAT(writer_->Write(Batch({1})), away);
  EXPECT_THAT(writer_->Flush(), away);
  EXPECT_THAT(sink_.taken(), ElementsAre(0));
}

TEST_F(BatchWriterTest, ALatentThatIsNotFiniteIsNamedAndNotWritten) {
  sink_.Allow(1);
  ASSERT_THAT(writer_->Write(Batch({7, 8}, NAN)), IsOk());
  EXPECT_THAT(writer_->Flush(), StatusIs(absl::StatusCode::kInvalidArgument,
                                         HasSubstr("the latent of triple 7 has nan")));
  EXPECT_THAT(sink_.taken(), IsEmpty());
  EXPECT_EQ(simulate_.triples.Value(), 0);
}

TEST_F(BatchWriterTest, AReleasedSolverDoesNotWait) {
  ASSERT_THAT(writer_->Write(Batch({0})), IsOk());
  ASSERT_TRUE(sink_.WaitForCalls(1));
  absl::Notification second;
  const auto refused = StatusIs(absl::StatusCode::kCancelled, HasSubstr("the batch before"));
  std::thread solver([&] {
    EXPECT_THAT(writer_->Write(Batch({1})), refused);
    second.Notify();
  });
  EXPECT_FALSE(second.WaitForNotificationWithTimeout(absl::Milliseconds(50)));
  writer_->Release(kLong);
  EXPECT_TRUE(second.WaitForNotificationWithTimeout(kLong));
  solver.join();
  EXPECT_THAT(writer_->Write(Batch({2})), refused);
  // What is in hand is written nevertheless.
  sink_.Allow(1);
  EXPECT_THAT(writer_->Flush(), IsOk());
  EXPECT_THAT(sink_.taken(), ElementsAre(0));
  EXPECT_FALSE(sink_.cancelled());
}

TEST_F(BatchWriterTest, AReleasedFlushCancelsALateSink) {
  ASSERT_THAT(writer_->Write(Batch({0})), IsOk());
  absl::Notification flushed;
  std::thread solver([&] {
    EXPECT_THAT(writer_->Flush(),
                StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("in time")));
    flushed.Notify();
  });
  EXPECT_FALSE(flushed.WaitForNotificationWithTimeout(absl::Milliseconds(50)));
  EXPECT_FALSE(sink_.cancelled());
  writer_->Release(absl::ZeroDuration());
  EXPECT_TRUE(flushed.WaitForNotificationWithTimeout(kLong));
  solver.join();
  EXPECT_TRUE(sink_.cancelled());
  EXPECT_THAT(sink_.taken(), IsEmpty());
}

TEST_F(BatchWriterTest, EndsThoughTheSinkHangs) {
  ASSERT_THAT(writer_->Write(Batch({0})), IsOk());
  ASSERT_TRUE(sink_.WaitForCalls(1));
  writer_.reset();
  EXPECT_TRUE(sink_.cancelled());
}

}  // namespace
}  // namespace d2g::simulate
