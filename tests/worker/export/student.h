// Checkpoints to export, and how an export is compared with stock diffusers.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "d2g/coordinator/v1/task_service.pb.h"
#include "model/folder/model_folder.h"
#include "model/network/unet_2d_condition.h"
#include "model/weights/safetensors.h"
#include "services/common/file_io.h"
#include "services/common/file_manifest.h"
#include "tests/testing/process.h"
#include "tests/testing/status_matchers.h"

namespace d2g::exporter {

inline nlohmann::json ReadJson(const std::string& path) {
  std::ifstream file(path);
  return nlohmann::json::parse(file);
}

// Lists a checkpoint's files as they are now.
inline void WriteManifest(const std::string& folder) {
  const auto files = common::DescribeFiles(folder, {"state.json", "ema.safetensors"});
  ASSERT_THAT(files, testing::IsOk());
  ASSERT_THAT(
      common::WriteFileAtomically(folder + "/manifest.json", common::FormatManifest(*files)),
      testing::IsOk());
}

// Writes a checkpoint whose student is the teacher, a little changed.
inline void WriteStudent(const std::string& teacher, const std::string& folder, int64_t step,
                         int64_t t0 = 999) {
  std::filesystem::create_directories(folder);
  const auto unet = model::UNet2DConditionModel::Load(teacher + "/unet");
  at::Generator generator = at::detail::createCPUGenerator(static_cast<uint64_t>(step));
  model::TensorMap ema;
  for (const auto& [name, tensor] : unet.parameters()) {
    ema[name] =
        tensor + 0.01 * at::randn(tensor.sizes(), generator, at::kFloat) * tensor.abs().mean();
  }
  model::WriteSafetensors(folder + "/ema.safetensors", ema);
  const nlohmann::json state = {{"step", step}, {"t0", t0}, {"parametrization", "x0"}};
  ASSERT_THAT(common::WriteFileAtomically(folder + "/state.json", state.dump()), testing::IsOk());
  WriteManifest(folder);
}

// The export of output_dir/checkpoint, of step 7, by "jobs/1".
inline coordinator::v1::ExportWork MakeWork(const model::ModelFolder& teacher,
                                            const std::string& output_dir) {
  coordinator::v1::ExportWork work;
  work.set_job("jobs/1");
  work.mutable_spec()->mutable_teacher()->set_path(teacher.path);
  work.mutable_spec()->set_output_dir(output_dir);
  work.set_dataset("datasets/abc");
  work.mutable_recipe()->set_teacher_digest(teacher.digest);
  work.mutable_recipe()->set_latent_channels(teacher.latent_channels);
  work.mutable_recipe()->set_latent_height(teacher.latent_height);
  work.mutable_recipe()->set_latent_width(teacher.latent_width);
  work.mutable_recipe()->set_seed(11);
  work.set_checkpoint_path(output_dir + "/checkpoint");
  work.set_checkpoint_step(7);
  work.set_export_path(output_dir + "/export");
  return work;
}

// Expects that stock diffusers, in the oldest version that d2g knows and in the newest, loads the
// folder without a variant and draws what d2g generate does, of the same size. `work` is a folder
// for what is drawn.
inline void ExpectSameInDiffusers(const std::string& exported, const std::string& work) {
  for (const auto& [environment, version] :
       {std::pair("venv", "diffusers 0.35"), std::pair("venv-newest", "diffusers 0.42")}) {
    const testing::ExitResult result =
        testing::RunProcess({testing::Python(environment),
                             testing::SourcePath("tests/worker/export/compare_with_diffusers.py"),
                             exported, std::string(std::getenv("D2G_BIN_DIR")) + "/d2g", work},
                            absl::Minutes(3));
    EXPECT_EQ(result.code, 0) << result.output;
    EXPECT_THAT(result.output, ::testing::AllOf(::testing::HasSubstr(version),
                                                ::testing::HasSubstr("largest difference")));
  }
}

}  // namespace d2g::exporter
