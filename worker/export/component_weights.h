// How the weights of a component that an export takes over are named.
#pragma once

#include <string>
#include <vector>

#include "worker/export/student_folder.h"

namespace d2g::exporter {

// A component's weights as the export has them.
struct ComponentWeights {
  // Relative to the whole folders, as ExportedFile has it.
  std::vector<ExportedFile> files;
  // The shards' index in the export: its path and text. Empty where one file holds all, or where
  // the teacher's index is among `files`.
  std::string index_path;
  std::string index_text;
};

// One for each of the teacher's components with weights but the U-Net. Throws model::Error and
// IoError as model::ChooseWeightFiles does.
std::vector<ComponentWeights> WeightsToTake(const StudentFolder& folder);

}  // namespace d2g::exporter
