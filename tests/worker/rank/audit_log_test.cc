#include "worker/rank/audit_log.h"

#include <gtest/gtest.h>

#include "services/common/file_io.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace d2g::rank {
namespace {

using ::d2g::testing::IsOk;
using ::d2g::testing::IsOkAndHolds;
using ::d2g::testing::StatusIs;
using ::d2g::testing::TempDir;
using ::testing::HasSubstr;

RankBatch Batch() {
  RankBatch batch;
  batch.cursor = {2, 7};
  batch.first_position = 4;
  batch.samples.resize(3);
  batch.samples[0].index = 11;
  batch.samples[1].index = 5;
  batch.samples[2].index = 90;
  batch.skipped = {{5, "damaged"}};
  return batch;
}

TEST(AuditLog, AppendsOneLineAStep) {
  const TempDir dir;
  std::string path;
  for (const int64_t step : {12, 13}) {
    // The second opening stands for a rank that was started again in the same generation.
    ASSERT_OK_AND_ASSIGN(const auto log, AuditLog::Open(dir.path(), 3, 1));
    EXPECT_THAT(log->Append(step, Batch()), IsOk());
    EXPECT_THAT(log->Sync(), IsOk());
    path = log->path();
  }
  EXPECT_EQ(path, dir.path() + "/audit/generation-3-rank-1.jsonl");
  const std::string rest =
      ",\"epoch\":2,\"batch\":7,\"position\":4,\"indices\":[11,5,90],\"skipped\":[5]}\n";
  EXPECT_THAT(common::ReadFile(path), IsOkAndHolds("{\"step\":12" + rest + "{\"step\":13" + rest));
}

TEST(AuditLog, NamesAFolderThatCannotBeMade) {
  EXPECT_THAT(AuditLog::Open("/proc/nowhere", 1, 0).status().message(),
              HasSubstr("/proc/nowhere/audit"));
}

}  // namespace
}  // namespace d2g::rank
