// The real d2g-store process: killed, started on bad folders and full disks, damaged on disk.
#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/common/channel.h"
#include "services/common/port_file.h"
#include "services/store/client/triple_client.h"
#include "tests/services/store/store_test_util.h"
#include "tests/testing/http_get.h"
#include "tests/testing/process.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tmpfs.h"
#include "tests/testing/wait.h"

namespace d2g::store {
namespace {

using ::d2g::testing::ExitResult;
using ::d2g::testing::HttpGet;
using ::d2g::testing::IsOk;
using ::d2g::testing::Process;
using ::d2g::testing::RunProcess;
using ::d2g::testing::StatusIs;
using ::d2g::testing::TempDir;
using ::d2g::testing::Tmpfs;
using ::d2g::testing::WaitFor;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::Range;
using testing::SmallRecipe;
using testing::TestTriple;
using v1::Triple;

constexpr char kName[] = "datasets/d1";

absl::Time Soon() { return absl::Now() + absl::Seconds(30); }

// One d2g-store and how to start it again on the same port.
class Shard {
 public:
  explicit Shard(std::string folder, std::vector<std::string> flags = {"--min-free-bytes", "0",
                                                                       "--min-free-share", "0"})
      : folder_(std::move(folder)), flags_(std::move(flags)) {}

  void Start() {
    std::vector<std::string> arguments = {"d2g-store",
                                          "--data-dir",
                                          folder_,
                                          "--shard",
                                          "0",
                                          "--listen",
                                          "127.0.0.1:" + std::to_string(port_),
                                          "--port-file",
                                          ports_.File("ports")};
    arguments.insert(arguments.end(), {"--write-buffer-bytes", "1048576"});
    arguments.insert(arguments.end(), flags_.begin(), flags_.end());
    std::filesystem::remove(ports_.File("ports"));
    process_ = std::make_unique<Process>(arguments);
    absl::StatusOr<common::Ports> ports;
    ASSERT_TRUE(WaitFor([&] {
      ports = common::ReadPortFile(ports_.File("ports"));
      return ports.ok() || !process_->Running();
    }));
    ASSERT_THAT(ports, IsOk()) << process_->Output();
    port_ = ports->grpc;
    admin_port_ = ports->admin;
    common::v1::ShardAddress address;
    address.set_address(this->address());
    client_ = std::make_unique<TripleClient>(address);
  }
  ExitResult Stop(int signal) {
    process_->Signal(signal);
    return process_->Wait();
  }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  int admin_port() const { return admin_port_; }
  TripleClient& client() { return *client_; }

 private:
  const std::string folder_;
  const std::vector<std::string> flags_;
  TempDir ports_;
  int port_ = 0;
  int admin_port_ = 0;
  std::unique_ptr<Process> process_;
  std::unique_ptr<TripleClient> client_;
};

absl::Status Fill(TripleClient* client, const common::v1::DatasetRecipe& recipe, int64_t begin,
                  int64_t end) {
  auto session = client->Append({.dataset = kName, .range = Range(begin, end)}, Soon());
  if (!session.ok()) return session.status();
  std::vector<Triple> triples;
  for (int64_t i = begin; i < end; ++i) triples.push_back(TestTriple(i, recipe));
  const absl::Status written = (*session)->Write(std::move(triples), Soon());
  if (!written.ok()) return written;
  return (*session)->Finish(Soon()).status();
}

// Appends a block's triples batch by batch without any retry; remembers what was acknowledged.
void Storm(const std::string& address, const common::v1::DatasetRecipe& recipe, int64_t block,
           std::map<int64_t, uint64_t>* acked) {
  const auto stub = v1::TripleService::NewStub(common::MakeChannel(address));
  grpc::ClientContext context;
  common::SetDeadline(&context, absl::Seconds(30));
  const auto stream = stub->AppendTriples(&context);
  const int64_t first = block * recipe.block_size();
  v1::AppendTriplesRequest request;
  v1::AppendTriplesResponse response;
  request.mutable_open()->mutable_key()->set_dataset(kName);
  *request.mutable_open()->mutable_range() = Range(first, first + recipe.block_size());
  bool alive = stream->Write(request) && stream->Read(&response);
  for (int64_t i = first; alive && i < first + recipe.block_size(); i += 4) {
    request.Clear();
    request.mutable_batch()->set_sequence(i);
    for (int64_t k = i; k < i + 4; ++k) {
      *request.mutable_batch()->add_triples() = TestTriple(k, recipe);
    }
    alive = stream->Write(request) && stream->Read(&response);
    if (!alive) break;
    for (const Triple& triple : request.batch().triples()) {
      (*acked)[triple.index()] = triple.x_checksum();
    }
  }
  stream->WritesDone();
  static_cast<void>(stream->Finish());
}

TEST(StoreProcessTest, NothingAcknowledgedIsLostWhenKilled) {
  constexpr int kKills = 5;
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  TempDir dir;
  Shard shard(dir.File("data"));
  const auto recipe = SmallRecipe(/*shard_count=*/1, /*block_size=*/4096);
  std::map<int64_t, uint64_t> ledger;
  for (int kill = 0; kill < kKills; ++kill) {
    ASSERT_NO_FATAL_FAILURE(shard.Start());
    ASSERT_THAT(shard.client().OpenDataset(kName, recipe, Soon()), IsOk());
    std::vector<std::map<int64_t, uint64_t>> acked(3);
    std::vector<std::thread> writers;
    for (int w = 0; w < 3; ++w) {
      writers.emplace_back(Storm, shard.address(), recipe, 3 * kill + w,
                           &acked[static_cast<size_t>(w)]);
    }
    absl::SleepFor(absl::Milliseconds(40 + random() % 200));
    EXPECT_EQ(shard.Stop(SIGKILL).code, -SIGKILL);
    for (std::thread& writer : writers) writer.join();
    for (const auto& part : acked) ledger.insert(part.begin(), part.end());
  }
  ASSERT_GT(ledger.size(), 20u);
  ASSERT_NO_FATAL_FAILURE(shard.Start());
  std::vector<int64_t> indices;
  for (const auto& [index, checksum] : ledger) indices.push_back(index);
  for (size_t at = 0; at < indices.size(); at += 64) {
    const std::vector<int64_t> part(
        indices.begin() + static_cast<ptrdiff_t>(at),
        indices.begin() + static_cast<ptrdiff_t>(std::min(at + 64, indices.size())));
    const auto triples = shard.client().ReadTriples(kName, part, Soon());
    ASSERT_THAT(triples, IsOk());
    for (const Triple& triple : *triples) {
      ASSERT_EQ(triple.SerializeAsString(), TestTriple(triple.index(), recipe).SerializeAsString());
    }
  }
  ASSERT_OK_AND_ASSIGN(
      const auto summary,
      shard.client().VerifyDataset(
          kName, [](const auto& finding) { ADD_FAILURE() << finding.reason(); }, Soon()));
  EXPECT_GE(summary.present(), static_cast<int64_t>(ledger.size()));
  // At most one batch of each stream was in doubt.
  EXPECT_LE(summary.present(), static_cast<int64_t>(ledger.size()) + kKills * 3 * 4);
  RecordProperty("acknowledged", static_cast<int>(ledger.size()));
}

TEST(StoreProcessTest, StopsCleanlyAndKeepsItsIdentity) {
  TempDir dir;
  Shard shard(dir.File("data"));
  ASSERT_NO_FATAL_FAILURE(shard.Start());
  const auto recipe = SmallRecipe();
  ASSERT_THAT(shard.client().OpenDataset(kName, recipe, Soon()), IsOk());
  ASSERT_THAT(Fill(&shard.client(), recipe, 0, 64), IsOk());
  ASSERT_OK_AND_ASSIGN(const auto sealed,
                       shard.client().SealRange(kName, Range(0, 64), {}, Soon()));
  ASSERT_OK_AND_ASSIGN(const auto before, shard.client().GetStats(Soon()));
  EXPECT_THAT(HttpGet(shard.admin_port(), "/readyz"), HasSubstr("200 OK"));
  EXPECT_EQ(shard.Stop(SIGTERM).code, 0);
  ASSERT_NO_FATAL_FAILURE(shard.Start());
  ASSERT_OK_AND_ASSIGN(const auto after, shard.client().GetStats(Soon()));
  EXPECT_EQ(after.store_uuid(), before.store_uuid());
  EXPECT_EQ(after.datasets(0).sealed_count(), 64);
  EXPECT_EQ(after.datasets(0).digest(), sealed.dataset_digest());
}

std::string ReadWhole(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// Flips one bit of the first place in the folder's files (by extension) that holds `needle`.
bool FlipBitOf(const std::string& folder, const std::string& extension, const std::string& needle) {
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != extension) continue;
    std::string content = ReadWhole(entry.path());
    const size_t at = content.find(needle);
    if (at == std::string::npos) continue;
    content[at + needle.size() / 2] ^= 4;
    std::ofstream(entry.path(), std::ios::binary) << content;
    return true;
  }
  return false;
}

TEST(StoreProcessTest, FlippedBitInABlobIsDataLossNamingTheIndex) {
  TempDir dir;
  Shard shard(dir.File("data"));
  ASSERT_NO_FATAL_FAILURE(shard.Start());
  const auto recipe = SmallRecipe(/*shard_count=*/1, /*block_size=*/4096);
  ASSERT_THAT(shard.client().OpenDataset(kName, recipe, Soon()), IsOk());
  // More than the write buffer, so that the first triples are in a blob file.
  ASSERT_THAT(Fill(&shard.client(), recipe, 0, 4096), IsOk());
  ASSERT_THAT(Fill(&shard.client(), recipe, 4096, 8192), IsOk());
  ASSERT_TRUE(WaitFor([&] {
    for (const auto& entry : std::filesystem::directory_iterator(dir.File("data"))) {
      if (entry.path().extension() == ".blob" &&
          ReadWhole(entry.path()).find(TestTriple(7, recipe).x()) != std::string::npos) {
        return true;
      }
    }
    return false;
  }));
  EXPECT_EQ(shard.Stop(SIGTERM).code, 0);
  ASSERT_TRUE(FlipBitOf(dir.File("data"), ".blob", TestTriple(7, recipe).x()));
  ASSERT_NO_FATAL_FAILURE(shard.Start());
  EXPECT_THAT(shard.client().ReadTriples(kName, {6, 7, 8}, Soon()),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("datasets/d1 index 7")));
  EXPECT_THAT(shard.client().ReadTriples(kName, {6, 8}, Soon()), IsOk());
  std::vector<int64_t> found;
  ASSERT_OK_AND_ASSIGN(
      const auto summary,
      shard.client().VerifyDataset(
          kName, [&](const auto& finding) { found.push_back(finding.index()); }, Soon()));
  EXPECT_EQ(found, std::vector<int64_t>{7});
  EXPECT_EQ(summary.bad(), 1);
  EXPECT_THAT(HttpGet(shard.admin_port(), "/metrics"),
              HasSubstr("d2g_store_checksum_failures_total 2"));
  // Invalidate and simulate anew: the range is whole again.
  ASSERT_THAT(shard.client().InvalidateRange(kName, Range(7, 8), 1, Soon()), IsOk());
  ASSERT_OK_AND_ASSIGN(
      const auto session,
      shard.client().Append({.dataset = kName, .range = Range(7, 8), .range_epoch = 1}, Soon()));
  ASSERT_THAT(session->Write({TestTriple(7, recipe)}, Soon()), IsOk());
  ASSERT_THAT(session->Finish(Soon()), IsOk());
  EXPECT_THAT(shard.client().ReadTriples(kName, {7}, Soon()), IsOk());
}

ExitResult StartOn(const std::string& folder, std::vector<std::string> more = {}) {
  std::vector<std::string> arguments = {"d2g-store", "--data-dir", folder};
  if (more.empty()) more = {"--shard", "0"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return RunProcess(arguments);
}

TEST(StoreProcessTest, DamagedLogIsNotOpened) {
  TempDir dir;
  Shard shard(dir.File("data"));
  ASSERT_NO_FATAL_FAILURE(shard.Start());
  const auto recipe = SmallRecipe();
  ASSERT_THAT(shard.client().OpenDataset(kName, recipe, Soon()), IsOk());
  ASSERT_THAT(Fill(&shard.client(), recipe, 0, 32), IsOk());
  ASSERT_THAT(Fill(&shard.client(), recipe, 32, 64), IsOk());
  shard.Stop(SIGKILL);
  ASSERT_TRUE(FlipBitOf(dir.File("data"), ".log", TestTriple(3, recipe).x()));
  const ExitResult result = StartOn(dir.File("data"));
  EXPECT_EQ(result.code, 1) << result.output;
  EXPECT_THAT(result.output, AllOf(HasSubstr(dir.File("data")), HasSubstr("is damaged")));
}

TEST(StoreProcessTest, PortInUse) {
  TempDir dir;
  Shard shard(dir.File("data"));
  ASSERT_NO_FATAL_FAILURE(shard.Start());
  const ExitResult result =
      StartOn(dir.File("other"), {"--shard", "0", "--listen", shard.address()});
  EXPECT_EQ(result.code, 3);
  EXPECT_THAT(result.output, HasSubstr("d2g-store: cannot listen on " + shard.address() +
                                       ": Address already in use"));
  EXPECT_FALSE(std::filesystem::exists(dir.File("other")));
}

TEST(StoreProcessTest, FolderInUse) {
  TempDir dir;
  Shard shard(dir.File("data"));
  ASSERT_NO_FATAL_FAILURE(shard.Start());
  const ExitResult result = StartOn(dir.File("data"));
  EXPECT_EQ(result.code, 3);
  EXPECT_THAT(result.output, HasSubstr("d2g-store: the data folder " + dir.File("data") +
                                       " is in use by another process"));
}

TEST(StoreProcessTest, FolderOfAnotherShard) {
  TempDir dir;
  Shard shard(dir.File("data"));
  ASSERT_NO_FATAL_FAILURE(shard.Start());
  EXPECT_EQ(shard.Stop(SIGTERM).code, 0);
  const ExitResult result = StartOn(dir.File("data"), {"--shard", "2"});
  EXPECT_EQ(result.code, 3);
  EXPECT_THAT(result.output, HasSubstr(dir.File("data") + " belongs to shard 0, not to shard 2"));
}

TEST(StoreProcessTest, BadFlags) {
  TempDir dir;
  EXPECT_EQ(StartOn(dir.File("data"), {"--shard", "-1"}).code, 2);
  EXPECT_EQ(StartOn(dir.File("data"), {"--listen", "127.0.0.1:0"}).code, 2);  // No --shard.
  const ExitResult open = StartOn(dir.File("data"), {"--shard", "0", "--listen", "0.0.0.0:0"});
  EXPECT_EQ(open.code, 3);
  EXPECT_THAT(open.output, HasSubstr("--insecure"));
  EXPECT_FALSE(std::filesystem::exists(dir.File("data")));
}

TEST(StoreProcessTest, AddressThatNobodyCanConnectTo) {
  TempDir dir;
  for (const char* flag : {"--advertise-address", "--coordinator"}) {
    for (const char* address : {"store-0", "store-0:", "store-0:99999", "store-0:0", ":7000"}) {
      const ExitResult result = StartOn(dir.File("data"), {"--shard", "0", flag, address});
      EXPECT_EQ(result.code, 2) << flag << " " << address;
      EXPECT_THAT(result.output, AllOf(HasSubstr(flag), HasSubstr(address)));
      EXPECT_FALSE(std::filesystem::exists(dir.File("data")));
    }
  }
}

TEST(StoreProcessTest, ReadOnlyDisk) {
  Tmpfs volume("48m");
  if (!volume.mounted()) GTEST_SKIP() << "mounting needs root";
  {
    Shard shard(volume.path() + "/data");
    ASSERT_NO_FATAL_FAILURE(shard.Start());
    EXPECT_EQ(shard.Stop(SIGTERM).code, 0);
  }
  ASSERT_TRUE(volume.MakeReadOnly());
  const auto expect_refused = [](const std::string& folder, const std::string& text) {
    const ExitResult result = StartOn(folder);
    EXPECT_EQ(result.code, 3);
    EXPECT_THAT(result.output,
                AllOf(HasSubstr(folder), HasSubstr(text), HasSubstr("Read-only file system")));
  };
  expect_refused(volume.path() + "/data", "is not writable");
  expect_refused(volume.path() + "/new", "cannot make the data folder");
}

TEST(StoreProcessTest, FullDiskRefusesAppendsAndKeepsTheRestGoing) {
  Tmpfs volume("96m");
  if (!volume.mounted()) GTEST_SKIP() << "mounting needs root";
  Shard shard(volume.path() + "/data",
              {"--min-free-bytes", "40000000", "--min-free-share", "0.05"});
  ASSERT_NO_FATAL_FAILURE(shard.Start());
  auto recipe = SmallRecipe(/*shard_count=*/1, /*block_size=*/16);
  recipe.set_latent_height(128);
  recipe.set_latent_width(128);  // 128 KiB a triple.
  ASSERT_THAT(shard.client().OpenDataset(kName, recipe, Soon()), IsOk());
  absl::Status status;
  int64_t filled = 0;
  for (; status.ok() && filled < 4096; filled += status.ok() ? 16 : 0) {
    status = Fill(&shard.client(), recipe, filled, filled + 16);
  }
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted,
                               AllOf(HasSubstr(volume.path()), HasSubstr("bytes are free"),
                                     HasSubstr("the limit is 40000000"))));
  ASSERT_GE(filled, 16);
  EXPECT_THAT(HttpGet(shard.admin_port(), "/metrics"),
              HasSubstr("d2g_store_refused_appends_total 1"));
  EXPECT_THAT(shard.client().SealRange(kName, Range(0, 16), {}, Soon()), IsOk());
  EXPECT_THAT(shard.client().ReadTriples(kName, {0, filled - 1}, Soon()), IsOk());
  // A restart on the full disk works, too.
  EXPECT_EQ(shard.Stop(SIGTERM).code, 0);
  ASSERT_NO_FATAL_FAILURE(shard.Start());
  EXPECT_EQ(shard.client().GetStats(Soon())->datasets(0).sealed_count(), 16);
  EXPECT_THAT(shard.client().DropDataset(kName, Soon()), IsOk());
  ASSERT_THAT(shard.client().OpenDataset(kName, recipe, Soon()), IsOk());
  EXPECT_TRUE(WaitFor([&] { return Fill(&shard.client(), recipe, 0, 16).ok(); }));
}

}  // namespace
}  // namespace d2g::store
