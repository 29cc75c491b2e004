// Folders that a job spec names, as small as they can be.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>

#include "d2g/coordinator/v1/job.pb.h"
#include "tests/testing/temp_dir.h"

namespace d2g::coordinator {

inline void WriteTestFile(const std::string& path, const std::string& content) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path, std::ios::binary) << content;
}

// One tensor "a" of six floats.
inline std::string TinySafetensors() {
  const std::string header = R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}})";
  std::string file;
  for (int i = 0; i < 8; ++i) file.push_back(static_cast<char>(header.size() >> (8 * i)));
  return file + header + std::string(24, '\1');
}

// A teacher that common::InspectModelFolder takes: latents of 4 x 8 x 8.
inline void WriteTeacherFolder(const std::string& path) {
  WriteTestFile(path + "/model_index.json",
                R"({"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "U"],
                    "vae": ["diffusers", "V"], "text_encoder": ["transformers", "T"],
                    "tokenizer": ["transformers", "T"], "scheduler": ["diffusers", "D"]})");
  WriteTestFile(path + "/unet/config.json", R"({"in_channels": 4, "sample_size": 8})");
  WriteTestFile(path + "/vae/config.json", "{}");
  WriteTestFile(path + "/text_encoder/config.json", "{}");
  WriteTestFile(path + "/tokenizer/vocab.json", "{}");
  WriteTestFile(path + "/tokenizer/merges.txt", "#version: 0.2\n");
  WriteTestFile(path + "/scheduler/scheduler_config.json", "{}");
  WriteTestFile(path + "/unet/diffusion_pytorch_model.safetensors", TinySafetensors());
  WriteTestFile(path + "/vae/diffusion_pytorch_model.safetensors", TinySafetensors());
  WriteTestFile(path + "/text_encoder/model.safetensors", TinySafetensors());
}

// Teacher, evaluator and a place for output in a temporary folder.
class InputFolders {
 public:
  InputFolders() {
    WriteTeacherFolder(teacher());
    WriteTestFile(evaluator() + "/config.json", "{}");
    WriteTestFile(evaluator() + "/model.safetensors", TinySafetensors());
    WriteTestFile(evaluator() + "/reference.safetensors", TinySafetensors());
  }
  std::string teacher() const { return dir_.File("teacher"); }
  std::string evaluator() const { return dir_.File("evaluator"); }
  std::string output() const { return dir_.File("output"); }
  std::string File(const std::string& name) const { return dir_.File(name); }

  // Puts the folders into a spec.
  void Fill(d2g::coordinator::v1::JobSpec* spec) const {
    spec->mutable_teacher()->set_path(teacher());
    spec->mutable_evaluate()->set_evaluator_path(evaluator());
    spec->set_output_dir(output());
  }

 private:
  d2g::testing::TempDir dir_;
};

}  // namespace d2g::coordinator
