// Checkpoint folders: everything that training needs to go on.
//
//   output_dir/checkpoints/step-N-gG-NONCE/
//     generator.safetensors ema.safetensors optimizer_g.safetensors
//     discriminator.safetensors optimizer_d.safetensors        with a discriminator
//     state.json                                               CheckpointState
//     manifest.json                                            written last: names, sizes, XXH3-128
//
// A folder without a manifest is unfinished. Which checkpoint counts is for the coordinator to say.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/weights/safetensors.h"
#include "worker/rank/rank_batch.h"

namespace d2g::rank {

// What is not a tensor. Random numbers have no state: all are keyed by seed and position.
struct CheckpointState {
  // "jobs/{id}"; empty where state.json does not name it.
  std::string job;
  // Optimiser steps done.
  int64_t step = 0;
  int64_t generation = 0;
  int world_size = 1;
  // Where the order of data goes on.
  DataCursor cursor;
  // Since the first step.
  int64_t samples = 0;
  int64_t skipped = 0;
  // XXH3-64 of G's and D's parameters as every rank held them, hex.
  std::string parameter_hash;
  // How the student runs: its timestep, "x0" or "sample", and diffusers' name of what the U-Net
  // then predicts.
  int64_t t0 = 0;
  std::string parametrization;
  std::string prediction_type;
  // What it was trained on.
  std::string dataset;
  std::string teacher_digest;
  // The job's spec as JSON.
  std::string spec_json;
};

// Tensors by file, without ".safetensors".
using CheckpointTensors = std::map<std::string, model::TensorMap>;

struct WrittenCheckpoint {
  std::string path;
  // 32 hex digits of XXH3-128 of manifest.json.
  std::string manifest_digest;
};

struct LoadedCheckpoint {
  CheckpointState state;
  CheckpointTensors tensors;
};

// Writes a new folder under `checkpoints_dir` and makes it durable: each file, then the manifest,
// then both folders. On failure the folder is removed. `progress` is called after each piece.
absl::StatusOr<WrittenCheckpoint> WriteCheckpoint(const std::string& checkpoints_dir,
                                                  const CheckpointState& state,
                                                  const CheckpointTensors& tensors,
                                                  const std::function<void()>& progress = nullptr);

// Reads a folder after comparing manifest and every file with their digests. DATA_LOSS names the
// file that does not match, with expected and actual value; NOT_FOUND one that is missing.
absl::StatusOr<LoadedCheckpoint> ReadCheckpoint(const std::string& path,
                                                const std::string& manifest_digest);

// Removes a folder that the coordinator let go. Refuses anything but a step folder directly under
// `checkpoints_dir`. One that is already gone is fine.
absl::Status DeleteCheckpoint(const std::string& checkpoints_dir, const std::string& path);

// Removes folders of generations before `generation` that have no manifest: left by writers that
// died, and of no use to anyone.
void RemoveUnfinishedCheckpoints(const std::string& checkpoints_dir, int64_t generation);

// Removes complete folders of `job` by generations before `generation` that are not among `listed`,
// the paths that the coordinator lists: written by ranks whose commit did not come through. Folders
// of other jobs, and those that do not name theirs, stay.
void RemoveLostCheckpoints(const std::string& checkpoints_dir, const std::string& job,
                           int64_t generation, const std::set<std::string>& listed);

}  // namespace d2g::rank
