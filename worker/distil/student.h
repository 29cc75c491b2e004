// The student in a checkpoint folder.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/text_to_image.h"
#include "model/weights/safetensors.h"
#include "worker/distil/generator.h"

namespace d2g::distil {

// What evaluation and export read of a checkpoint: the average and how it runs.
struct StudentCheckpoint {
  // What Load reads, relative to the folder.
  static std::vector<std::string> Files();
  // Throws model::IoError naming a file that cannot be read, model::Error one that is malformed.
  static StudentCheckpoint Load(const std::string& folder);

  // The student as a generator on the teacher's schedule.
  OneStepGenerator Conversion(const model::DdimScheduler& teacher) const;
  // The student's U-Net: the teacher's configuration with the averaged weights, fp32. Throws
  // model::Error when the weights are not the teacher's shapes.
  model::UNet2DConditionModel UNet(const model::UNet2DConditionModel& teacher) const;

  model::TensorMap ema;  // U-Net state-dict names, fp32
  int64_t step = 0;
  int64_t t0 = 0;
  std::string parametrization;  // "x0" or "sample"
};

}  // namespace d2g::distil
