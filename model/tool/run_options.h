// What generate and teacher have in common: a model, prompts, noise and a solver.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "model/text_to_image.h"

namespace d2g::model {

struct RunOptions {
  std::string model;
  bool tile = false;
  std::string variant;
  std::vector<std::string> prompts;
  int64_t count = 1;
  uint64_t seed = 0;
  std::string noise_file;
  std::string save_noise;
  std::string scheduler = "ddim";
  int64_t steps = 0;     // 0: 1 for a student, 50 for a teacher
  double guidance = -1;  // negative: none for a student, 3 for a teacher
  double guidance_rescale = 0;
  std::optional<std::string> negative_prompt;  // "" is one too
  std::string spacing;
  std::string dtype = "fp32";
  std::string device = "cpu";
  bool no_cuda_graphs = false;
  int threads = 0;  // 0: as many as LibTorch takes
};

// An option that may be repeated and takes one text each time, whatever the text looks like.
CLI::Option* AddTexts(CLI::App& command, const std::string& name, std::vector<std::string>* texts,
                      const std::string& description);

// A number from least to most; NaN is none.
CLI::Validator Between(double least, double most);

// A whole number from least to most.
CLI::Validator WholeNumber(uint64_t least, uint64_t most);

// Declares the flags on a subcommand.
void AddRunFlags(CLI::App& command, RunOptions* options);

// A file that a subcommand will write, and the flag that says so.
struct Output {
  std::string flag;
  std::string path;  // empty: none
  bool required = false;
  // Written as PNG, and named so.
  bool is_picture = false;
};

// Throws Error naming flag and path unless every file can be written, no two are the same one and
// pictures are named .png:
// before the work, which may take long. Changes nothing.
void CheckOutputs(const std::vector<Output>& outputs);

// [count, C, h, w] fp32 for `shape` (C, h, w): picture i starts from noise (seed, i).
at::Tensor MakeNoise(uint64_t seed, int64_t count, const std::vector<int64_t>& shape);

struct Run {
  at::Tensor noise;    // [B, C, h, w] fp32
  at::Tensor latents;  // [B, C, h, w] fp32
  int64_t steps = 0;
  double guidance = 0;
  double seconds = 0;  // of prompts and solver
};

// Whether the folder is a one-step export: its scheduler carries the first betas of a longer
// schedule, spaced trailing, and ends at alpha 1. Throws Error if d2g.json, the lineage file beside
// it, states a t0 that is not the scheduler's last timestep.
bool IsStudent(const std::string& folder, const DdimScheduler& scheduler);

// Sets the process up for its threads and device; loads nothing. Throws Error for options that are
// not possible.
ModelOptions ToModelOptions(const RunOptions& options);

// Makes or reads the noise, encodes the prompts, integrates. Writes nothing. Throws Error, too, for
// latents that are not finite.
Run Solve(const TextToImageModel& model, const RunOptions& options);

// uint8 [B, H, W, channels] to one picture of `columns` (0: about as many as rows), with `gap`
// white pixels between them.
at::Tensor PictureGrid(const at::Tensor& pictures, int64_t columns = 0, int64_t gap = 2);

// Writes --save-noise where it was asked for.
void SaveNoise(const Run& run, const RunOptions& options);

}  // namespace d2g::model
