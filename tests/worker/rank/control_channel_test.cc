#include "worker/rank/control_channel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <barrier>
#include <thread>

#include <ATen/ATen.h>

namespace d2g::rank {
namespace {

using ::testing::DoubleEq;
using ::testing::ElementsAre;
using ::testing::Pair;

// Ranks as threads of one process: sums in rank order.
class ThreadGroup {
 public:
  explicit ThreadGroup(int size) : barrier_(size), tensors_(size) {}

  class Member : public collective::ProcessGroup {
   public:
    Member(ThreadGroup* all, int rank) : all_(all), rank_(rank) {}
    int rank() const override { return rank_; }
    int size() const override { return static_cast<int>(all_->tensors_.size()); }
    at::Device device() const override { return at::kCPU; }
    std::unique_ptr<collective::PendingOperation> StartAllReduceSum(
        const at::Tensor& tensor) override {
      all_->tensors_[rank_] = tensor;
      all_->barrier_.arrive_and_wait();
      const at::Tensor sum = at::stack(all_->tensors_).sum(0);
      all_->barrier_.arrive_and_wait();
      tensor.copy_(sum);
      all_->barrier_.arrive_and_wait();
      return std::make_unique<Done>();
    }
    void Broadcast(const at::Tensor&, int) override {}
    void Barrier() override { all_->barrier_.arrive_and_wait(); }

   private:
    struct Done : collective::PendingOperation {
      void Wait() override {}
    };
    ThreadGroup* const all_;
    const int rank_;
  };

 private:
  std::barrier<> barrier_;
  std::vector<at::Tensor> tensors_;
};

std::vector<ControlResult> ExchangeAll(const std::vector<ControlMessage>& messages) {
  ThreadGroup group(static_cast<int>(messages.size()));
  std::vector<ControlResult> results(messages.size());
  std::vector<std::thread> ranks;
  for (size_t rank = 0; rank < messages.size(); ++rank) {
    ranks.emplace_back([&, rank] {
      ThreadGroup::Member member(&group, static_cast<int>(rank));
      ControlChannel channel(&member, {"loss", "loss_d"});
      results[rank] = channel.Exchange(messages[rank]);
    });
  }
  for (std::thread& rank : ranks) rank.join();
  return results;
}

TEST(ControlChannel, SumsCountsAndMetrics) {
  ControlMessage first;
  first.valid = 7;
  first.skipped = 1;
  first.metrics = {{"loss", 0.25}};
  ControlMessage second;
  second.valid = 8;
  second.metrics = {{"loss", 0.5}, {"unknown", 3}};
  for (const ControlResult& result : ExchangeAll({first, second})) {
    EXPECT_EQ(result.valid, 15);
    EXPECT_EQ(result.skipped, 1);
    EXPECT_FALSE(result.stop);
    EXPECT_FALSE(result.not_finite);
    EXPECT_FALSE(result.data_waits);
    EXPECT_FALSE(result.commit_waits);
    EXPECT_FALSE(result.hashes_agree);
    EXPECT_THAT(result.metrics, ElementsAre(Pair("loss", DoubleEq(0.75))));
  }
}

TEST(ControlChannel, OneRanksWishIsEveryRanksResult) {
  std::vector<ControlMessage> messages(3);
  messages[1].stop = true;
  messages[2].not_finite = true;
  messages[0].commit_waits = true;
  messages[2].data_waits = true;
  for (const ControlResult& result : ExchangeAll(messages)) {
    EXPECT_TRUE(result.stop);
    EXPECT_TRUE(result.not_finite);
    EXPECT_TRUE(result.data_waits);
    EXPECT_TRUE(result.commit_waits);
  }
}

TEST(ControlChannel, ComparesHashes) {
  const auto agree = [](std::vector<std::optional<uint64_t>> hashes) {
    std::vector<ControlMessage> messages(hashes.size());
    for (size_t rank = 0; rank < hashes.size(); ++rank) {
      messages[rank].parameter_hash = hashes[rank];
    }
    const std::vector<ControlResult> results = ExchangeAll(messages);
    for (const ControlResult& result : results) {
      EXPECT_EQ(result.hashes_agree, results[0].hashes_agree);
    }
    return results[0].hashes_agree;
  };
  const uint64_t hash = 0xFEDCBA9876543210;
  EXPECT_TRUE(agree({hash}));
  EXPECT_TRUE(agree({hash, hash, hash}));
  EXPECT_TRUE(agree({0, 0}));
  EXPECT_FALSE(agree({hash, hash + 1}));
  EXPECT_FALSE(agree({hash, hash ^ (uint64_t{1} << 63), hash}));
  // The same sum of pieces, but not the same pieces.
  EXPECT_FALSE(agree({1, 3}));
  EXPECT_FALSE(agree({2, 1, 3}));
  EXPECT_FALSE(agree({hash, std::nullopt}));
}

}  // namespace
}  // namespace d2g::rank
