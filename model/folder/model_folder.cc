#include "model/folder/model_folder.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/check/model_summary.h"
#include "model/check/network_folders.h"
#include "model/files/error.h"
#include "model/files/json_config.h"
#include "model/files/latent_size.h"
#include "model/files/safetensors_header.h"
#include "model/files/weight_files.h"
#include "nlohmann/json.hpp"
#include "services/common/digest.h"
#include "services/common/status_macros.h"
#include "services/common/utf8.h"

namespace d2g::model {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// Channels too.
constexpr int64_t kMaxLatentSide = 4096;
// What model/ takes, and what diffusers has where the file does not say.
constexpr int64_t kMaxTrainTimesteps = 1'000'000;
constexpr int32_t kDefaultTrainTimesteps = 1000;
constexpr int32_t kDefaultDecoderScales = 4;

absl::Status Bad(const std::string& file, const std::string& why) {
  return absl::InvalidArgumentError(absl::StrCat(file, " ", why));
}

bool IsFile(const std::string& path) {
  std::error_code error;
  return fs::is_regular_file(path, error);
}

// Runs f, which reads a file of the folder: all that it throws names the file.
template <typename F>
auto Checked(const F& f) -> absl::StatusOr<decltype(f())> {
  try {
    return f();
  } catch (const Error& error) {
    return absl::InvalidArgumentError(common::ValidUtf8(error.what(), common::kMaxFailureBytes));
  }
}

template <typename F>
absl::Status CheckedStatus(const F& f) {
  return Checked([&f] {
           f();
           return true;
         })
      .status();
}

absl::StatusOr<json> ReadJsonObject(const std::string& path) {
  if (!IsFile(path)) return Bad(path, "is missing");
  D2G_ASSIGN_OR_RETURN(json parsed, Checked([&] { return ReadJsonFile(path); }));
  if (!parsed.is_object()) return Bad(path, "is not a JSON object");
  return parsed;
}

absl::StatusOr<std::set<std::string>> TensorsOf(const std::string& path) {
  return Checked([&] {
    std::set<std::string> names;
    for (const auto& entry : ReadSafetensorsHeader(path).entries) {
      names.insert(entry.name);
    }
    return names;
  });
}

// Collects the component files while checking them.
class Inspector {
 public:
  explicit Inspector(std::string root) : root_(std::move(root)) {}

  absl::StatusOr<json> Json(const std::string& relative) {
    files_.insert(relative);
    return ReadJsonObject(Path(relative));
  }

  absl::Status File(const std::string& relative) {
    if (!IsFile(Path(relative))) return Bad(Path(relative), "is missing");
    files_.insert(relative);
    return absl::OkStatus();
  }

  void OptionalFile(const std::string& relative) {
    if (IsFile(Path(relative))) files_.insert(relative);
  }

  absl::Status Weights(const std::string& folder, const std::string& stem) {
    D2G_ASSIGN_OR_RETURN(const WeightFiles weights,
                         Checked([&] { return ChooseWeightFiles(Path(folder), stem); }));
    if (!weights.index.empty()) files_.insert(absl::StrCat(folder, "/", weights.index));
    for (const auto& [name, tensors] : weights.shards) {
      const std::string file = absl::StrCat(folder, "/", name);
      D2G_RETURN_IF_ERROR(File(file));
      D2G_ASSIGN_OR_RETURN(const std::set<std::string> held, TensorsOf(Path(file)));
      for (const std::string& tensor : tensors) {
        if (!held.contains(tensor)) {
          return Bad(Path(file),
                     absl::StrCat("lacks tensor ",
                                  common::ValidUtf8(Printable(tensor), common::kMaxFailureBytes),
                                  " of the index"));
        }
      }
    }
    return absl::OkStatus();
  }

  absl::Status Tokenizer(const std::string& folder) {
    // The fast tokenizer's file may stand for the other two.
    const std::string fast = folder + "/tokenizer.json";
    OptionalFile(fast);
    if (IsFile(Path(fast)) && !IsFile(Path(folder + "/vocab.json"))) {
      OptionalFile(folder + "/merges.txt");
    } else {
      D2G_RETURN_IF_ERROR(File(folder + "/vocab.json"));
      D2G_RETURN_IF_ERROR(File(folder + "/merges.txt"));
    }
    OptionalFile(folder + "/tokenizer_config.json");
    OptionalFile(folder + "/special_tokens_map.json");
    OptionalFile(folder + "/added_tokens.json");
    return absl::OkStatus();
  }

  std::string Path(const std::string& relative) const { return root_ + "/" + relative; }
  const std::set<std::string>& files() const { return files_; }

 private:
  const std::string root_;
  std::set<std::string> files_;
};

bool ListsComponent(const json& index, const std::string& name) {
  return index.contains(name) && index[name].is_array() && index[name].size() == 2 &&
         index[name][0].is_string();
}

// Name, size and content of each file, in order.
absl::StatusOr<std::string> DigestOf(const std::string& root, const std::set<std::string>& files,
                                     const common::Tick& tick, int64_t* total_bytes) {
  common::Digester whole;
  *total_bytes = 0;
  for (const std::string& relative : files) {
    common::Digester one;
    D2G_ASSIGN_OR_RETURN(const int64_t size,
                         one.UpdateFromFile(absl::StrCat(root, "/", relative), tick));
    *total_bytes += size;
    whole.Update(absl::StrCat(relative, "\n", size, "\n", one.Hex(), "\n"));
  }
  return whole.Text();
}

absl::StatusOr<int32_t> PositiveField(const std::string& path, const json& config,
                                      const std::string& field, int64_t most = kMaxLatentSide) {
  if (!config.contains(field) || !config[field].is_number_integer() ||
      config[field].get<int64_t>() < 1 || config[field].get<int64_t>() > most) {
    return Bad(path, absl::StrCat("has no ", field, " from 1 to ", most));
  }
  return config[field].get<int32_t>();
}

absl::StatusOr<LatentSize> LatentSizeOf(const std::string& path, const json& unet) {
  D2G_ASSIGN_OR_RETURN(const std::optional<LatentSize> size,
                       Checked([&] { return ReadLatentSize(JsonConfig(unet, path)); }));
  if (!size || std::max(size->height, size->width) > kMaxLatentSide) {
    return Bad(path, absl::StrCat("has no sample_size from 1 to ", kMaxLatentSide));
  }
  return *size;
}

}  // namespace

absl::Status CheckPipeline(const std::string& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return Bad(path, "is not a folder");
  // A folder without an index may be one component, which inspect looks at, too.
  if (!IsFile(path + "/model_index.json")) return Bad(path + "/model_index.json", "is missing");
  D2G_ASSIGN_OR_RETURN(const std::string troubles,
                       Checked([&] { return SummariseModel(path).Troubles(); }));
  if (troubles.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(common::ValidUtf8(troubles, common::kMaxFailureBytes));
}

absl::Status CheckSolver(const std::string& path, const common::v1::SolverSpec& solver) {
  return CheckedStatus([&] {
    CheckSolverSettings(path, {solver.kind(), solver.steps(), solver.timestep_spacing()});
  });
}

absl::Status CheckFeatureNetwork(const std::string& path, std::optional<int32_t> latent_channels) {
  return CheckedStatus([&] { CheckFeatureFolder(path, latent_channels); });
}

absl::Status CheckEvaluator(const std::string& path) {
  return CheckedStatus([&] { CheckEvaluatorFolder(path); });
}

absl::StatusOr<ModelFolder> InspectModelFolder(const std::string& path, const common::Tick& tick) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return Bad(path, "is not a folder");
  Inspector inspector(path);
  D2G_ASSIGN_OR_RETURN(const json index, inspector.Json("model_index.json"));
  for (const char* name : {"unet", "vae", "text_encoder", "tokenizer", "scheduler"}) {
    if (!ListsComponent(index, name)) {
      return Bad(inspector.Path("model_index.json"), absl::StrCat("lists no component ", name));
    }
  }
  ModelFolder folder;
  folder.path = path;
  D2G_ASSIGN_OR_RETURN(json unet_options, inspector.Json("unet/config.json"));
  const json unet = WithoutDefaults(std::move(unet_options));
  const std::string unet_config = inspector.Path("unet/config.json");
  D2G_ASSIGN_OR_RETURN(folder.latent_channels, PositiveField(unet_config, unet, "in_channels"));
  D2G_ASSIGN_OR_RETURN(const LatentSize latents, LatentSizeOf(unet_config, unet));
  folder.latent_height = static_cast<int32_t>(latents.height);
  folder.latent_width = static_cast<int32_t>(latents.width);
  folder.decoder_scales = kDefaultDecoderScales;
  if (unet.contains("up_block_types") && unet["up_block_types"].is_array()) {
    folder.decoder_scales = static_cast<int32_t>(unet["up_block_types"].size());
  }
  folder.wants_pooled_text = unet.value("addition_embed_type", json()) == "text_time";
  D2G_RETURN_IF_ERROR(inspector.Weights("unet", "diffusion_pytorch_model"));
  D2G_RETURN_IF_ERROR(inspector.Json("vae/config.json").status());
  D2G_RETURN_IF_ERROR(inspector.Weights("vae", "diffusion_pytorch_model"));
  for (const char* encoder : {"text_encoder", "text_encoder_2"}) {
    if (!ListsComponent(index, encoder)) continue;
    D2G_RETURN_IF_ERROR(inspector.Json(absl::StrCat(encoder, "/config.json")).status());
    D2G_RETURN_IF_ERROR(inspector.Weights(encoder, "model"));
  }
  for (const char* tokenizer : {"tokenizer", "tokenizer_2"}) {
    if (ListsComponent(index, tokenizer)) D2G_RETURN_IF_ERROR(inspector.Tokenizer(tokenizer));
  }
  const std::string scheduler_config = "scheduler/scheduler_config.json";
  D2G_ASSIGN_OR_RETURN(const json scheduler, inspector.Json(scheduler_config));
  folder.train_timesteps = kDefaultTrainTimesteps;
  if (scheduler.contains("num_train_timesteps")) {
    D2G_ASSIGN_OR_RETURN(folder.train_timesteps,
                         PositiveField(inspector.Path(scheduler_config), scheduler,
                                       "num_train_timesteps", kMaxTrainTimesteps));
  }
  folder.last_timestep_has_no_x = scheduler.value("rescale_betas_zero_snr", json(false)) == true &&
                                  scheduler.value("prediction_type", json("epsilon")) == "epsilon";
  folder.files.assign(inspector.files().begin(), inspector.files().end());
  D2G_ASSIGN_OR_RETURN(folder.digest, DigestOf(path, inspector.files(), tick, &folder.total_bytes));
  return folder;
}

absl::StatusOr<ModelFolder> FindModelFolder(const std::string& path, const std::string& digest,
                                            const common::Tick& tick) {
  absl::StatusOr<ModelFolder> folder = InspectModelFolder(path, tick);
  if (absl::IsCancelled(folder.status())) return folder;
  if (!folder.ok()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the model folder cannot be used on this machine: ", folder.status().message()));
  }
  if (folder->digest != digest) {
    return absl::FailedPreconditionError(absl::StrCat("teacher ", path, " has the digest ",
                                                      folder->digest,
                                                      ", the dataset was made with ", digest));
  }
  return folder;
}

absl::StatusOr<std::string> FolderDigest(const std::string& path, const common::Tick& tick) {
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    return absl::NotFoundError(absl::StrCat(path, " is not a folder"));
  }
  std::set<std::string> files;
  fs::recursive_directory_iterator it(path, error);
  for (; !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    if (it->path().filename().string().front() == '.') {
      if (it->is_directory(error)) it.disable_recursion_pending();
      continue;
    }
    if (it->is_regular_file(error)) {
      files.insert(it->path().lexically_relative(path).generic_string());
    }
  }
  if (error) {
    return absl::InternalError(absl::StrCat(path, ": cannot list: ", error.message()));
  }
  int64_t total_bytes = 0;
  return DigestOf(path, files, tick, &total_bytes);
}

}  // namespace d2g::model
