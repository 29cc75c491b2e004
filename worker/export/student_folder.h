// Writes the student as a diffusers folder (LibTorch side of the export).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "worker/distil/student.h"

namespace d2g::exporter {

// What a student's folder is made from.
struct StudentFolder {
  // The teacher's folder and, relative to it, the files that make it up.
  std::string teacher_path;
  std::vector<std::string> teacher_files;
  // The latents that the student was trained on.
  int64_t latent_height = 0;
  int64_t latent_width = 0;
  // The student.
  distil::StudentCheckpoint student;
};

// A file of the teacher's and what it becomes, relative to the two folders.
struct ExportedFile {
  std::string from;
  std::string to;
  // Weights of a text encoder whose tensors lack "text_model.", which only new versions of
  // transformers read: they are written anew with it.
  bool completes_names = false;

  bool operator==(const ExportedFile&) const = default;
};

// The teacher's files that go into the export: all but the U-Net's and what MakeTexts writes.
// Weights get their plain name where the teacher only has a variant of them
// ("model.fp16.safetensors"), and shards of such the usual numbers, so that the export loads
// without a variant. Throws model::Error for weights that are not readable.
std::vector<ExportedFile> FilesToTake(const StudentFolder& folder);

// The files that differ from the teacher's, by relative path, as text. model_index.json: the
// scheduler's class; components whose folder is not there are dropped, as the safety checker's.
// scheduler/scheduler_config.json, with which stock diffusers runs the student exactly: DDIM,
// "trailing" from a schedule of t0 + 1 steps that ends at t0. unet/config.json: the size that the
// student was trained at, under a version of diffusers that takes it as it stands. The indices of
// shards that FilesToTake renames. Throws model::Error.
std::map<std::string, std::string> MakeTexts(const StudentFolder& folder);

// Writes one of FilesToTake that completes names to the folder `exported`. `progress` is as below.
void CompleteNames(const StudentFolder& folder, const ExportedFile& file,
                   const std::string& exported, const std::function<void()>& progress);

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
