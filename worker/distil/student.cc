#include "worker/distil/student.h"

#include <nlohmann/json.hpp>

#include "model/files/error.h"
#include "model/files/json_config.h"
#include "services/common/checkpoint_files.h"

namespace d2g::distil {

StudentCheckpoint StudentCheckpoint::Load(const std::string& folder) {
  const std::string path = folder + "/" + common::kCheckpointStateFile;
  const std::string text = model::ReadFileToString(path);
  StudentCheckpoint checkpoint;
  try {
    const nlohmann::json state = nlohmann::json::parse(text);
    checkpoint.step = state.at("step").get<int64_t>();
    checkpoint.t0 = state.at("t0").get<int64_t>();
    checkpoint.parametrization = state.at("parametrization").get<std::string>();
  } catch (const nlohmann::json::exception& error) {
    model::Fail(path, ": ", error.what());
  }
  checkpoint.ema = model::ReadSafetensors(folder + "/" + common::TensorFile(common::kEmaTensors));
  return checkpoint;
}

OneStepGenerator StudentCheckpoint::Conversion(const model::DdimScheduler& teacher) const {
  return OneStepGenerator(teacher, t0, parametrization);
}

model::UNet2DConditionModel StudentCheckpoint::UNet(
    const model::UNet2DConditionModel& teacher) const {
  const auto device = teacher.parameters().begin()->second.device();
  return model::UNet2DConditionModel(teacher.config(), ema,
                                     at::TensorOptions().dtype(at::kFloat).device(device));
}

std::vector<std::string> StudentCheckpoint::Files() {
  return {common::kCheckpointStateFile, common::TensorFile(common::kEmaTensors)};
}

}  // namespace d2g::distil
