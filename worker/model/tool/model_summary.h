// What a model folder holds, without loading its weights.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace d2g::model {

struct ComponentSummary {
  std::string name;        // "unet"; empty for a folder that is one component
  std::string class_name;  // "UNet2DConditionModel"
  // Whether d2g runs it. Others (safety checker, feature extractor) are listed only.
  bool used = true;
  int64_t parameters = 0;
  int64_t bytes = 0;                // of the tensors in the files
  std::vector<std::string> dtypes;  // of the tensors, "fp16" and so on, sorted
  std::string options;              // the options that tell models apart, on one line
  // Why d2g cannot run it: an option that is not supported, a tensor that is missing or does not
  // fit, a file that is damaged. Empty when it can.
  std::string trouble;
};

struct ModelSummary {
  std::string path;
  std::string class_name;  // of the pipeline, or of the component
  std::string diffusers_version;
  std::vector<ComponentSummary> components;
  // [channels, height, width] of latents and pictures; empty when the files do not say.
  std::vector<int64_t> latent_shape;
  std::vector<int64_t> picture_shape;
  // Why the components do not go together; empty when they do.
  std::string trouble;

  bool usable() const;
  // Of the components that are used.
  int64_t parameters() const;
};

// Looks at a folder with a model_index.json, or at one component's folder with a config.json. Every
// option, name and shape is checked as a load would, but no weights are read. Throws Error when the
// folder is neither; what is wrong inside it is in the summary.
ModelSummary SummariseModel(const std::string& path);

}  // namespace d2g::model
