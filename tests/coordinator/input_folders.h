// Folders that a job spec names, as small as they can be.
#pragma once

#include <functional>
#include <string>

#include "d2g/coordinator/v1/job.pb.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_folder.h"

namespace d2g::coordinator {

inline void WriteTestFile(const std::string& path, const std::string& content) {
  d2g::testing::WriteText(path, content);
}

// Teacher (latents of 4 x 8 x 8), evaluator and a place for output in a temporary folder.
class InputFolders {
 public:
  InputFolders() {
    d2g::testing::WriteTinyFolder(teacher());
    EditTeacher("unet/config.json", [](auto& config) { config["sample_size"] = 8; });
    d2g::testing::WriteTinyEvaluator(evaluator());
  }
  std::string teacher() const { return dir_.File("teacher"); }
  std::string evaluator() const { return dir_.File("evaluator"); }
  std::string output() const { return dir_.File("output"); }
  std::string File(const std::string& name) const { return dir_.File(name); }

  // Changes a JSON file of the teacher.
  void EditTeacher(const std::string& file,
                   const std::function<void(nlohmann::json&)>& change) const {
    d2g::testing::EditJson(teacher() + "/" + file, change);
  }

  // Puts the folders into a spec.
  void Fill(v1::JobSpec* spec) const {
    spec->mutable_teacher()->set_path(teacher());
    spec->mutable_evaluate()->set_evaluator_path(evaluator());
    spec->set_output_dir(output());
  }

 private:
  d2g::testing::TempDir dir_;
};

}  // namespace d2g::coordinator
