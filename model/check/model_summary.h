// What a model folder holds and whether d2g runs it, without loading its weights and without
// LibTorch: what d2g model inspect shows, and what jobs are checked with when they are submitted.
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
  // What its files hold that is left out, a line for each reason.
  std::vector<std::string> notes;
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
  // Everything that keeps it from being usable, in one sentence; empty when it is.
  std::string Troubles() const;
  // Parameters of the components that are used.
  int64_t parameters() const;
};

// Looks at a folder with a model_index.json, or at one component's folder with a config.json. Every
// option, name and shape is checked as a load would, but no weights are read. Throws Error when the
// folder is neither; what is wrong inside it is in the summary.
ModelSummary SummariseModel(const std::string& path);

// How a job asks for the teacher's solver to run.
struct SolverSettings {
  std::string kind;  // "ddim"
  int64_t steps = 0;
  std::string spacing;  // empty: the scheduler file's
};

// Throws Error where the scheduler of a usable pipeline cannot be run so.
void CheckSolverSettings(const std::string& folder, const SolverSettings& settings);

}  // namespace d2g::model
