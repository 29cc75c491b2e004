// A diffusers folder that is complete in form (services/common/model_folder.h accepts it) but holds
// no real model.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>

namespace d2g::testing {

inline void WriteSampleFile(const std::string& path, const std::string& content) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path, std::ios::binary) << content;
}

// A valid safetensors file of one tensor.
inline std::string SampleSafetensors() {
  const std::string header = R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}})";
  std::string file;
  for (int i = 0; i < 8; ++i) file.push_back(static_cast<char>(header.size() >> (8 * i)));
  return file + header + std::string(24, '\1');
}

// Latents are 4x8x8.
inline void WriteSampleModel(const std::string& folder) {
  WriteSampleFile(folder + "/model_index.json",
                  R"({"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "U"],
                      "vae": ["diffusers", "V"], "text_encoder": ["transformers", "T"],
                      "tokenizer": ["transformers", "T"], "scheduler": ["diffusers", "D"]})");
  WriteSampleFile(folder + "/unet/config.json", R"({"in_channels": 4, "sample_size": 8})");
  for (const char* file : {"/vae/config.json", "/text_encoder/config.json", "/tokenizer/vocab.json",
                           "/scheduler/scheduler_config.json"}) {
    WriteSampleFile(folder + file, "{}");
  }
  WriteSampleFile(folder + "/tokenizer/merges.txt", "#version: 0.2\n");
  for (const char* file :
       {"/unet/diffusion_pytorch_model.safetensors", "/vae/diffusion_pytorch_model.safetensors",
        "/text_encoder/model.safetensors"}) {
    WriteSampleFile(folder + file, SampleSafetensors());
  }
}

}  // namespace d2g::testing
