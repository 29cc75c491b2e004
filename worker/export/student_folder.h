// Writes the student as a diffusers folder (LibTorch side of the export).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "worker/recipe/student.h"

namespace d2g::exporter {

// What a student's folder is made from.
struct StudentFolder {
  // The teacher's folder and, relative to it, the files that make it up.
  std::string teacher_path;
  std::vector<std::string> teacher_files;
  // The student.
  recipe::StudentCheckpoint student;
};

// The teacher's files that go into the export as they are: all but the U-Net's weights and the
// scheduler's and pipeline's settings.
std::vector<std::string> FilesToCopy(const StudentFolder& folder);

// The files that differ from the teacher's, by relative path, as text: model_index.json (the
// scheduler's class; components whose folder is not there are dropped, as the safety checker's) and
// scheduler/scheduler_config.json, with which stock diffusers runs the student exactly:
// DDIM, "trailing" from a schedule of t0 + 1 steps that ends at t0. Throws model::Error.
std::map<std::string, std::string> MakeConfigs(const StudentFolder& folder);

// Writes the averaged U-Net to `unet_folder` in the dtypes that the teacher's weights are stored
// in. Throws model::Error naming a tensor that is not finite in that dtype. `progress` is called
// after each tensor and may throw to stop.
void WriteUNet(const StudentFolder& folder, const std::string& unet_folder,
               const std::function<void()>& progress);

// Loads `exported` as a pipeline and compares its one step with the student's, from one noise and
// prompt. Throws model::Error when they differ by more than the storage dtype explains. `progress`
// is called after each network and may throw to stop.
void VerifyExport(const StudentFolder& folder, const std::string& exported,
                  const std::function<void()>& progress);

}  // namespace d2g::exporter
