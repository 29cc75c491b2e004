// Looks at diffusers folders without loading them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "d2g/common/v1/recipe.pb.h"
#include "services/common/digest.h"

namespace d2g::model {

// A complete text-to-image folder.
struct ModelFolder {
  // As given.
  std::string path;
  // "xxh3-128:" and 32 hex digits over the component files (docs/formats.md says how).
  std::string digest;
  // From unet/config.json: in_channels, and sample_size (height and width) as the pipeline takes it
  // (model/files/latent_size.h).
  int32_t latent_channels = 0;
  int32_t latent_height = 0;
  int32_t latent_width = 0;
  // Blocks of the U-Net's decoder: entries of up_block_types; 4, as diffusers has it, when absent.
  int32_t decoder_scales = 0;
  // num_train_timesteps of scheduler/scheduler_config.json; 1000, as diffusers has it, when absent.
  int32_t train_timesteps = 0;
  // The scheduler predicts epsilon and has alpha 0 at its last timestep, where epsilon gives no x.
  bool last_timestep_has_no_x = false;
  // The U-Net is told a pooled text embedding and sizes, too: Stable Diffusion XL.
  bool wants_pooled_text = false;
  // The files that make up the model, relative, sorted.
  std::vector<std::string> files;
  // Their bytes in all.
  int64_t total_bytes = 0;
};

// OK when d2g runs the pipeline at `path`: pipeline and component classes, every component's
// options, names and shapes of all weights, tokenizers, scheduler, and that they go together. What
// d2g model inspect says is the message of INVALID_ARGUMENT. Reads configs and headers, no weights.
absl::Status CheckPipeline(const std::string& path);

// OK when the scheduler of a pipeline that CheckPipeline takes can run so; INVALID_ARGUMENT with
// the reason.
absl::Status CheckSolver(const std::string& path, const common::v1::SolverSpec& solver);

// OK when training can compare latents of so many channels (where that is known) in the features of
// the network at `path`; INVALID_ARGUMENT naming the file and what is wrong with it. Reads no
// weights.
absl::Status CheckFeatureNetwork(const std::string& path, std::optional<int32_t> latent_channels);

// The same of an evaluator.
absl::Status CheckEvaluator(const std::string& path);

// Checks that `path` holds the files of a pipeline: model_index.json; unet, vae and text_encoder
// with config.json and safetensors weights (a variant, where there is no plain file and one variant
// only) whose header, offsets and file size agree; tokenizer and scheduler files. A second text
// encoder and tokenizer are checked where the index lists them; other components (safety checker)
// are left out of checks and digest. INVALID_ARGUMENT names the first bad file and, for a truncated
// one, expected and actual size. `tick` is called between pieces of the weights, which are all
// read.
absl::StatusOr<ModelFolder> InspectModelFolder(const std::string& path,
                                               const common::Tick& tick = nullptr);

// A folder that was inspected when the job was made, as this machine sees it: FAILED_PRECONDITION
// when it is not usable here, or when its digest is not `digest`, with both.
absl::StatusOr<ModelFolder> FindModelFolder(const std::string& path, const std::string& digest,
                                            const common::Tick& tick = nullptr);

// Digest of every regular file under `path`, in the same form; hidden files are left out. NOT_FOUND
// when there is no such folder.
absl::StatusOr<std::string> FolderDigest(const std::string& path,
                                         const common::Tick& tick = nullptr);

}  // namespace d2g::model
