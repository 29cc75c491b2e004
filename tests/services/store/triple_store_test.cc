// The contract of TripleStore, run on every engine.
#include "services/store/triple_store.h"

#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/store/memory_engine.h"
#include "services/store/rocksdb_engine.h"
#include "tests/services/store/store_test_util.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace d2g::store {
namespace {

using ::d2g::testing::IsOk;
using ::d2g::testing::IsOkAndHolds;
using ::d2g::testing::StatusIs;
using ::d2g::testing::TempDir;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::Range;
using testing::SmallRecipe;
using testing::TestTriple;
using v1::Triple;

constexpr char kName[] = "datasets/d1";

struct MemoryMaker {
  std::unique_ptr<Engine> Make() { return std::make_unique<MemoryEngine>(); }
};

struct RocksDbMaker {
  std::unique_ptr<Engine> Make() {
    auto engine = OpenRocksDbEngine({.folder = dir.File("data"), .write_buffer_bytes = 1 << 20});
    EXPECT_THAT(engine, IsOk());
    return *std::move(engine);
  }
  TempDir dir;
};

template <typename Maker>
class TripleStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    TripleStoreOptions options;
    options.min_free_bytes = 0;
    options.min_free_share = 0;
    options.metrics = &metrics_;
    auto store = TripleStore::Create(maker_.Make(), options);
    ASSERT_THAT(store, IsOk());
    store_ = *std::move(store);
    ASSERT_THAT(store_->OpenDataset(kName, recipe_), IsOk());
  }

  absl::StatusOr<TripleStore::Appended> Append(const std::vector<Triple>& triples,
                                               int64_t epoch = 0) {
    std::vector<const Triple*> pointers;
    for (const Triple& triple : triples) pointers.push_back(&triple);
    return store_->Append(kName, epoch, pointers);
  }

  std::vector<Triple> Triples(int64_t begin, int64_t end, int variant = 0) {
    std::vector<Triple> triples;
    for (int64_t i = begin; i < end; ++i) triples.push_back(TestTriple(i, recipe_, variant));
    return triples;
  }

  v1::GetStatsResponse::DatasetStats Stats() { return store_->Stats().at(0); }

  Maker maker_;
  common::Metrics registry_{"tester"};
  StoreMetrics metrics_{&registry_};
  common::v1::DatasetRecipe recipe_ = SmallRecipe(/*shard_count=*/1, /*block_size=*/64);
  std::unique_ptr<TripleStore> store_;
};

using Makers = ::testing::Types<MemoryMaker, RocksDbMaker>;
TYPED_TEST_SUITE(TripleStoreTest, Makers);

TYPED_TEST(TripleStoreTest, OpenDatasetIsIdempotentAndKeepsItsRecipe) {
  EXPECT_THAT(this->store_->OpenDataset(kName, this->recipe_), IsOk());
  auto other = this->recipe_;
  other.set_seed(2);
  EXPECT_THAT(this->store_->OpenDataset(kName, other),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr(kName)));
}

TYPED_TEST(TripleStoreTest, BadRecipesNameFieldValueAndLimit) {
  auto bad = this->recipe_;
  bad.set_block_size(8);
  bad.set_latent_width(0);
  EXPECT_THAT(this->store_->OpenDataset("datasets/x", bad),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("recipe.block_size: is 8; it must be from 16 to 65536"),
                             HasSubstr("recipe.latent_width: is 0"))));
  for (const std::string& name :
       {std::string("x"), std::string("datasets/"), std::string("datasets/../x"),
        std::string("datasets/a b"), std::string("datasets/a\0b", 12)}) {
    EXPECT_THAT(this->store_->OpenDataset(name, this->recipe_),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("datasets/{id}")))
        << name;
  }
  auto large = this->recipe_;
  large.set_latent_height(4096);
  large.set_latent_width(4096);
  EXPECT_THAT(this->store_->OpenDataset("datasets/x", large),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("the limit is 4194304")));
}

TYPED_TEST(TripleStoreTest, ReadsBackWhatWasAppended) {
  ASSERT_OK_AND_ASSIGN(const auto appended, this->Append(this->Triples(3, 13)));
  EXPECT_EQ(appended.written, 10);
  EXPECT_EQ(appended.repeated, 0);
  for (int64_t i = 3; i < 13; ++i) {
    ASSERT_OK_AND_ASSIGN(const Triple triple, this->store_->Read(kName, i));
    EXPECT_EQ(triple.SerializeAsString(), TestTriple(i, this->recipe_).SerializeAsString());
  }
  for (const int64_t absent : {2, 13, 100000}) {
    EXPECT_THAT(this->store_->Read(kName, absent),
                StatusIs(absl::StatusCode::kNotFound,
                         HasSubstr("datasets/d1 index " + std::to_string(absent))));
  }
  EXPECT_THAT(this->store_->Read(kName, -1), StatusIs(absl::StatusCode::kNotFound));
}

TYPED_TEST(TripleStoreTest, FirstWriteWinsAndRepeatsAreCounted) {
  ASSERT_THAT(this->Append(this->Triples(0, 4)), IsOk());
  ASSERT_OK_AND_ASSIGN(const auto again, this->Append(this->Triples(2, 6, /*variant=*/1)));
  EXPECT_EQ(again.written, 2);
  EXPECT_EQ(again.repeated, 2);
  EXPECT_EQ(this->store_->Read(kName, 3)->x(), TestTriple(3, this->recipe_, 0).x());
  EXPECT_EQ(this->store_->Read(kName, 4)->x(), TestTriple(4, this->recipe_, 1).x());
  const std::vector<Triple> twice = {TestTriple(9, this->recipe_, 0),
                                     TestTriple(9, this->recipe_, 1)};
  ASSERT_OK_AND_ASSIGN(const auto doubled, this->Append(twice));
  EXPECT_EQ(doubled.written, 1);
  EXPECT_EQ(doubled.repeated, 1);
  EXPECT_EQ(this->store_->Read(kName, 9)->x(), TestTriple(9, this->recipe_, 0).x());
  EXPECT_EQ(this->Stats().repeated_appends(), 3);
  EXPECT_EQ(this->Stats().present_count(), 7);
  EXPECT_EQ(this->Stats().stored_bytes(), 7 * 512);
  EXPECT_EQ(this->metrics_.appended_triples.Value(), 7);
  EXPECT_EQ(this->metrics_.repeated_appends.Value(), 3);
}

TYPED_TEST(TripleStoreTest, PresenceBitmapOfARange) {
  ASSERT_THAT(this->Append({TestTriple(64, this->recipe_), TestTriple(66, this->recipe_),
                            TestTriple(73, this->recipe_)}),
              IsOk());
  EXPECT_THAT(this->store_->OpenRange(kName, Range(64, 74), 0),
              IsOkAndHolds(std::string("\x05\x02")));
  EXPECT_THAT(this->store_->OpenRange(kName, Range(65, 67), 0), IsOkAndHolds(std::string("\x02")));
  EXPECT_THAT(this->store_->OpenRange(kName, Range(0, 9), 0),
              IsOkAndHolds(std::string("\x00\x00", 2)));
}

TYPED_TEST(TripleStoreTest, BadTriplesAreRefusedWhole) {
  const auto expect = [&](Triple bad, absl::StatusCode code, const std::string& text) {
    const std::vector<Triple> batch = {TestTriple(1, this->recipe_), bad};
    EXPECT_THAT(this->Append(batch), StatusIs(code, HasSubstr(text)));
    EXPECT_THAT(this->store_->Read(kName, 1), StatusIs(absl::StatusCode::kNotFound));
  };
  Triple bad = TestTriple(2, this->recipe_);
  bad.mutable_x()->pop_back();
  expect(bad, absl::StatusCode::kInvalidArgument, "index 2: x has 511 bytes");
  bad = TestTriple(2, this->recipe_);
  (*bad.mutable_x())[5] ^= 1;
  expect(bad, absl::StatusCode::kDataLoss, "index 2: x does not match x_checksum");
  EXPECT_EQ(this->metrics_.checksum_failures.Value(), 1);
  bad = TestTriple(2, this->recipe_);
  bad.mutable_x()->replace(8, 2, std::string("\x00\x7e", 2));
  bad.set_x_checksum(dataset::LatentChecksum(bad.x()));
  expect(bad, absl::StatusCode::kInvalidArgument, "index 2: x holds NaN or infinity at element 4");
  bad = TestTriple(2, this->recipe_);
  bad.set_prompt_index(1000);
  expect(bad, absl::StatusCode::kInvalidArgument, "prompt_index is 1000; the prompt list has 1000");
  expect(TestTriple(64, this->recipe_), absl::StatusCode::kInvalidArgument,
         "is not inside one block of 64");
  EXPECT_THAT(this->store_->OpenRange(kName, Range(60, 70), 0),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(this->store_->OpenRange(kName, Range(5, 5), 0),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("empty")));
}

TYPED_TEST(TripleStoreTest, BlocksOfOtherShardsAreRefused) {
  ASSERT_THAT(this->store_->OpenDataset("datasets/two", SmallRecipe(/*shard_count=*/2)), IsOk());
  EXPECT_THAT(this->store_->OpenRange("datasets/two", Range(64, 128), 0),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("lives on shard 1; this is shard 0")));
  EXPECT_THAT(this->store_->OpenRange("datasets/two", Range(128, 192), 0), IsOk());
}

TYPED_TEST(TripleStoreTest, SealNeedsEveryIndex) {
  ASSERT_THAT(this->Append(this->Triples(0, 20)), IsOk());
  EXPECT_THAT(this->store_->Seal(kName, Range(0, 22), {}),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("index 20 is missing")));
  EXPECT_EQ(this->Stats().sealed_count(), 0);
  EXPECT_THAT(this->store_->Seal(kName, Range(64, 128), {}),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("index 64 is missing")));
}

TYPED_TEST(TripleStoreTest, DigestDoesNotDependOnOrderOrCuts) {
  ASSERT_THAT(this->Append(this->Triples(0, 64)), IsOk());
  uint64_t expected = 0;
  for (int64_t i = 0; i < 64; ++i) {
    expected += SealDigest(i, TestTriple(i, this->recipe_).x_checksum());
  }
  ASSERT_OK_AND_ASSIGN(const auto second, this->store_->Seal(kName, Range(40, 64), {}));
  ASSERT_OK_AND_ASSIGN(const auto first, this->store_->Seal(kName, Range(0, 40), {}));
  EXPECT_EQ(first.sealed().digest() + second.sealed().digest(), expected);
  EXPECT_EQ(first.dataset_digest(), expected);
  EXPECT_EQ(first.dataset_sealed_count(), 64);
  // Again, and across the old cut: the same digests, nothing counted twice.
  ASSERT_OK_AND_ASSIGN(const auto whole, this->store_->Seal(kName, Range(0, 64), {}));
  EXPECT_EQ(whole.sealed().digest(), expected);
  EXPECT_EQ(whole.dataset_digest(), expected);
  EXPECT_EQ(whole.dataset_sealed_count(), 64);
  EXPECT_EQ(this->metrics_.sealed_triples.Value(), 64);
}

TYPED_TEST(TripleStoreTest, ListSealedMergesRanges) {
  ASSERT_THAT(this->Append(this->Triples(0, 64)), IsOk());
  ASSERT_THAT(this->Append(this->Triples(64, 100)), IsOk());
  for (const auto& range : {Range(10, 20), Range(0, 10), Range(60, 64), Range(64, 100)}) {
    ASSERT_THAT(this->store_->Seal(kName, range, {}), IsOk());
  }
  ASSERT_OK_AND_ASSIGN(const auto sealed, this->store_->ListSealed(kName));
  ASSERT_EQ(sealed.ranges_size(), 2);
  EXPECT_EQ(sealed.ranges(0).end(), 20);
  EXPECT_EQ(sealed.ranges(1).begin(), 60);
  EXPECT_EQ(sealed.ranges(1).end(), 100);
  EXPECT_EQ(sealed.sealed_count(), 60);
  EXPECT_EQ(sealed.digest(), this->Stats().digest());
}

TYPED_TEST(TripleStoreTest, InvalidateMakesAbsentAndFencesOldEpochs) {
  ASSERT_THAT(this->Append(this->Triples(0, 64)), IsOk());
  ASSERT_OK_AND_ASSIGN(const auto before, this->store_->Seal(kName, Range(0, 32), {}));
  ASSERT_THAT(this->store_->Seal(kName, Range(32, 64), {}), IsOk());
  EXPECT_THAT(this->store_->Invalidate(kName, Range(32, 64), 0),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("greater")));
  EXPECT_THAT(this->store_->Invalidate(kName, Range(32, 64), 5), IsOkAndHolds(32));
  EXPECT_EQ(this->Stats().present_count(), 32);
  EXPECT_EQ(this->Stats().sealed_count(), 32);
  EXPECT_EQ(this->Stats().digest(), before.sealed().digest());
  EXPECT_THAT(this->store_->Read(kName, 40), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(this->Append(this->Triples(40, 41, 1), /*epoch=*/4),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("invalidated")));
  EXPECT_THAT(this->store_->OpenRange(kName, Range(32, 64), 4),
              StatusIs(absl::StatusCode::kAborted));
  ASSERT_THAT(this->Append(this->Triples(40, 41, 1), /*epoch=*/5), IsOk());
  EXPECT_EQ(this->store_->Read(kName, 40)->x(), TestTriple(40, this->recipe_, 1).x());
}

TYPED_TEST(TripleStoreTest, DropForgetsEverything) {
  ASSERT_THAT(this->Append(this->Triples(0, 10)), IsOk());
  ASSERT_THAT(this->store_->Seal(kName, Range(0, 10), {}), IsOk());
  EXPECT_THAT(this->store_->Drop(kName), IsOk());
  EXPECT_THAT(this->store_->Drop(kName), IsOk());
  EXPECT_TRUE(this->store_->Stats().empty());
  EXPECT_THAT(this->store_->Read(kName, 0),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(kName)));
  auto other = this->recipe_;
  other.set_seed(9);
  ASSERT_THAT(this->store_->OpenDataset(kName, other), IsOk());
  EXPECT_EQ(this->Stats().present_count(), 0);
  EXPECT_THAT(this->store_->Read(kName, 0), StatusIs(absl::StatusCode::kNotFound));
}

TYPED_TEST(TripleStoreTest, VerifyOfASoundDatasetFindsNothing) {
  ASSERT_THAT(this->Append(this->Triples(0, 50)), IsOk());
  ASSERT_THAT(this->store_->Seal(kName, Range(0, 30), {}), IsOk());
  ASSERT_OK_AND_ASSIGN(const auto summary,
                       this->store_->Verify(kName, [](int64_t index, const std::string& reason) {
                         ADD_FAILURE() << index << " " << reason;
                         return true;
                       }));
  EXPECT_EQ(summary.checked(), 50);
  EXPECT_EQ(summary.present(), 50);
  EXPECT_EQ(summary.bad(), 0);
}

TYPED_TEST(TripleStoreTest, ConcurrentWritersCountEachIndexOnce) {
  constexpr int kThreads = 8;
  std::atomic<int> written{0};
  std::atomic<int> repeated{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      // Four blocks, each written whole by two threads.
      const int64_t first = 64 * (t % 4);
      for (int64_t i = first; i < first + 64; i += 8) {
        const auto result = this->Append(this->Triples(i, i + 8, t));
        ASSERT_THAT(result, IsOk());
        written += result->written;
        repeated += result->repeated;
      }
      ASSERT_THAT(this->store_->Seal(kName, Range(first, first + 64), {}), IsOk());
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(written, 256);
  EXPECT_EQ(repeated, 256);
  EXPECT_EQ(this->Stats().present_count(), 256);
  EXPECT_EQ(this->Stats().sealed_count(), 256);
}

TYPED_TEST(TripleStoreTest, DropDuringAppendsEndsThemCleanly) {
  std::thread writer([&] {
    absl::Status status;
    for (int round = 0; status.ok() && round < 1000; ++round) {
      status = this->Append(this->Triples(64 * round, 64 * round + 8)).status();
    }
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kNotFound, HasSubstr("not open")));
  });
  while (this->Stats().present_count() < 16) std::this_thread::yield();
  EXPECT_THAT(this->store_->Drop(kName), IsOk());
  writer.join();
  EXPECT_TRUE(this->store_->Stats().empty());
}

TEST(FreeSpaceTest, AppendsStopAtTheFloorAndSealsGoOn) {
  auto owned = std::make_unique<MemoryEngine>();
  MemoryEngine* const engine = owned.get();
  TripleStoreOptions options;
  options.min_free_bytes = 1000;
  options.min_free_share = 0.5;
  ASSERT_OK_AND_ASSIGN(const auto store, TripleStore::Create(std::move(owned), options));
  const auto recipe = SmallRecipe();
  ASSERT_THAT(store->OpenDataset(kName, recipe), IsOk());
  const Triple triple = TestTriple(0, recipe);
  const Triple* const batch[] = {&triple};
  ASSERT_THAT(store->Append(kName, 0, batch), IsOk());
  const Triple next = TestTriple(1, recipe);
  const Triple* const next_batch[] = {&next};
  engine->set_space({.free_bytes = 5000, .total_bytes = 10000, .path = "/volume"});
  EXPECT_THAT(store->Append(kName, 0, next_batch),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       AllOf(HasSubstr("/volume"), HasSubstr("5000 bytes are free"),
                             HasSubstr("the limit is 5000"))));
  // A repeat needs no space.
  EXPECT_THAT(store->Append(kName, 0, batch), IsOk());
  EXPECT_THAT(store->Seal(kName, Range(0, 1), {}), IsOk());
  EXPECT_THAT(store->Drop(kName), IsOk());
}

// A memory engine with faults on demand.
class FaultyEngine final : public Engine {
 public:
  std::vector<DatasetId> Datasets() const override { return engine_.Datasets(); }
  absl::Status CreateDataset(DatasetId dataset) override { return engine_.CreateDataset(dataset); }
  absl::Status DropDataset(DatasetId dataset) override {
    return fail_drop ? absl::InternalError("the disk failed") : engine_.DropDataset(dataset);
  }
  absl::Status Write(const Commit& commit) override { return engine_.Write(commit); }
  absl::StatusOr<std::string> ReadValue(DatasetId dataset, int64_t index) const override {
    if (before_read) before_read();
    return engine_.ReadValue(dataset, index);
  }
  absl::StatusOr<std::string> ReadRow(const std::string& key) const override {
    return engine_.ReadRow(key);
  }
  absl::Status ScanRows(
      const std::string& begin, const std::string& end,
      absl::FunctionRef<bool(absl::string_view key, absl::string_view value)> row) const override {
    return engine_.ScanRows(begin, end, row);
  }
  absl::Status RemoveRows(const std::string& begin, const std::string& end) override {
    return engine_.RemoveRows(begin, end);
  }
  absl::StatusOr<Space> GetSpace() const override { return engine_.GetSpace(); }
  absl::Status Health() const override { return engine_.Health(); }

  bool fail_drop = false;
  std::function<void()> before_read;

 private:
  MemoryEngine engine_;
};

// One triple of one dataset on an engine that can fail.
class FaultTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto engine = std::make_unique<FaultyEngine>();
    engine_ = engine.get();
    ASSERT_OK_AND_ASSIGN(store_, TripleStore::Create(std::move(engine), {}));
    ASSERT_THAT(store_->OpenDataset(kName, recipe_), IsOk());
    ASSERT_THAT(Append(0), IsOk());
  }
  absl::Status Append(int64_t range_epoch) {
    const Triple triple = TestTriple(0, recipe_);
    const Triple* const batch[] = {&triple};
    return store_->Append(kName, range_epoch, batch).status();
  }

  const common::v1::DatasetRecipe recipe_ = SmallRecipe();
  std::unique_ptr<TripleStore> store_;
  FaultyEngine* engine_ = nullptr;
};

TEST_F(FaultTest, WhatIsRemovedUnderAReadIsAbsentAndNotDamaged) {
  engine_->before_read = [&] { EXPECT_THAT(store_->Invalidate(kName, Range(0, 1), 1), IsOk()); };
  EXPECT_THAT(store_->Read(kName, 0), StatusIs(absl::StatusCode::kNotFound));
  engine_->before_read = nullptr;
  ASSERT_THAT(Append(1), IsOk());
  engine_->before_read = [&] { EXPECT_THAT(store_->Drop(kName), IsOk()); };
  EXPECT_THAT(store_->Read(kName, 0), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(FaultTest, ADropThatFailedIsFinishedByARepeat) {
  ASSERT_THAT(store_->Seal(kName, Range(0, 1), {}), IsOk());
  engine_->fail_drop = true;
  EXPECT_THAT(store_->Drop(kName), StatusIs(absl::StatusCode::kInternal));
  ASSERT_EQ(store_->Stats().size(), 1u) << "so that the coordinator asks again";
  EXPECT_EQ(store_->Stats()[0].sealed_count(), 0);
  EXPECT_EQ(store_->Stats()[0].digest(), 0u);
  EXPECT_EQ(store_->ListSealed(kName)->ranges_size(), 0);
  constexpr auto kNotFound = absl::StatusCode::kNotFound;
  EXPECT_THAT(store_->Read(kName, 0), StatusIs(kNotFound));
  EXPECT_THAT(store_->OpenRange(kName, Range(0, 1), 0), StatusIs(kNotFound));
  EXPECT_THAT(store_->Verify(kName, [](int64_t, const std::string&) { return true; }),
              StatusIs(kNotFound));
  EXPECT_THAT(store_->OpenDataset(kName, recipe_),
              StatusIs(absl::StatusCode::kUnavailable,
                       AllOf(HasSubstr("being dropped"), HasSubstr("the disk failed"))));
  engine_->fail_drop = false;
  EXPECT_THAT(store_->Drop(kName), IsOk());
  EXPECT_TRUE(store_->Stats().empty());
  EXPECT_TRUE(engine_->Datasets().empty());
  EXPECT_THAT(store_->OpenDataset(kName, recipe_), IsOk());
}

TEST_F(FaultTest, OpeningADatasetFinishesADropThatFailed) {
  engine_->fail_drop = true;
  EXPECT_THAT(store_->Drop(kName), StatusIs(absl::StatusCode::kInternal));
  engine_->fail_drop = false;
  auto other = recipe_;
  other.set_seed(9);
  EXPECT_THAT(store_->OpenDataset(kName, other), IsOk());
  EXPECT_EQ(engine_->Datasets().size(), 1u);
  EXPECT_EQ(store_->Stats()[0].present_count(), 0);
  EXPECT_THAT(Append(0), IsOk());
  EXPECT_EQ(store_->Stats()[0].present_count(), 1);
}

TEST(DamageTest, FlippedBitIsDataLossNamingTheIndex) {
  auto owned = std::make_unique<MemoryEngine>();
  MemoryEngine* const engine = owned.get();
  ASSERT_OK_AND_ASSIGN(const auto store, TripleStore::Create(std::move(owned), {}));
  const auto recipe = SmallRecipe();
  ASSERT_THAT(store->OpenDataset(kName, recipe), IsOk());
  for (int64_t i = 0; i < 3; ++i) {
    const Triple triple = TestTriple(i, recipe);
    const Triple* const batch[] = {&triple};
    ASSERT_THAT(store->Append(kName, 0, batch), IsOk());
  }
  engine->FlipBit(1, 1, kTripleHeaderBytes + 100);
  EXPECT_THAT(store->Read(kName, 1),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("datasets/d1 index 1")));
  std::vector<int64_t> found;
  ASSERT_OK_AND_ASSIGN(const auto summary,
                       store->Verify(kName, [&](int64_t index, const std::string&) {
                         found.push_back(index);
                         return true;
                       }));
  EXPECT_EQ(found, std::vector<int64_t>{1});
  EXPECT_EQ(summary.bad(), 1);
  EXPECT_EQ(summary.checked(), 3);
}

TEST(RocksDbEngineTest, AFolderThatCannotBeLookedAtIsRefusedByName) {
  const TempDir dir;
  // A link to itself cannot be followed, whoever asks.
  std::filesystem::create_symlink("loop", dir.File("loop"));
  std::filesystem::create_directory(dir.File("data"));
  std::filesystem::create_symlink("CURRENT", dir.File("data/CURRENT"));
  for (const char* name : {"loop", "data"}) {
    const auto opened = OpenRocksDbEngine({.folder = dir.File(name)});
    EXPECT_EQ(opened.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(opened.status().message()),
                AllOf(HasSubstr(dir.File(name)), HasSubstr("Too many levels of symbolic links")));
  }
}

}  // namespace
}  // namespace d2g::store
