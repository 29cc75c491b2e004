// The sample jobs under deploy/jobs are job files that the coordinator would take.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "cli/job_file.h"
#include "coordinator/spec/job_spec.h"
#include "services/spec/normal_spec.h"

namespace d2g::cli {
namespace {

TEST(SampleJobs, AreJobsThatTheCoordinatorTakes) {
  int count = 0;
  const std::filesystem::path folder = std::filesystem::path(std::getenv("D2G_SOURCE_DIR"));
  for (const auto& entry : std::filesystem::directory_iterator(folder / "deploy/jobs")) {
    ++count;
    auto spec = LoadJobFile(entry.path().string());
    ASSERT_TRUE(spec.ok()) << spec.status();
    EXPECT_FALSE(spec->teacher().path().empty()) << entry.path();
    EXPECT_FALSE(spec->prompts().path().empty()) << entry.path();
    EXPECT_GT(spec->simulate().triples(), 0) << entry.path();
    EXPECT_GT(spec->train().steps(), 0) << entry.path();
    EXPECT_TRUE(std::filesystem::path(spec->output_dir()).is_absolute()) << entry.path();
    // What the command line fills in once it has uploaded the prompts.
    spec->mutable_prompts()->set_digest("xxh3-128:" + std::string(32, '0'));
    for (const auto& violation : spec::NormalizeSpec(&*spec)) {
      ADD_FAILURE() << entry.path() << ": " << violation.field << ": " << violation.description;
    }
  }
  EXPECT_GE(count, 2);
}

}  // namespace
}  // namespace d2g::cli
