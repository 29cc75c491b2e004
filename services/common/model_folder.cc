#include "services/common/model_folder.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"
#include "services/common/digest.h"
#include "services/common/file_io.h"
#include "services/common/status_macros.h"

namespace d2g::common {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int64_t kMaxJsonBytes = 64 << 20;
// What the safetensors format itself allows.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;

// Far beyond any real file, and little memory once parsed.
constexpr int kMaxJsonDepth = 64;
constexpr int64_t kMaxJsonValues = 4'000'000;

// Channels too.
constexpr int64_t kMaxLatentSide = 4096;
// What worker/model takes, and what diffusers has where the file does not say.
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

// Python writes numbers that JSON does not have: NaN, Infinity, -Infinity. Outside of strings they
// become null.
std::string WithoutNonFinite(absl::string_view text) {
  std::string out;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (in_string && text[i] == '\\' && i + 1 < text.size()) {
      out.append(text.data() + i++, 2);
      continue;
    }
    if (text[i] == '"') in_string = !in_string;
    bool replaced = false;
    for (const absl::string_view word : {"-Infinity", "Infinity", "NaN"}) {
      if (in_string || !absl::StartsWith(text.substr(i), word)) continue;
      out += "null";
      i += word.size() - 1;
      replaced = true;
      break;
    }
    if (!replaced) out += text[i];
  }
  return out;
}

// Whether parsing takes memory in proportion to a real file's: neither depth nor the number of
// values, of which there is one more than commas in every list and object, is beyond the limits.
bool IsModest(const std::string& text) {
  int64_t depth = 0, values = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      ++values;
      if (++depth > kMaxJsonDepth) return false;
    } else if (c == ']' || c == '}') {
      --depth;
    } else if (c == ',') {
      ++values;
    }
    if (values > kMaxJsonValues) return false;
  }
  return true;
}

absl::StatusOr<json> ParseObject(const std::string& path, const std::string& text,
                                 const std::string& otherwise) {
  if (!IsModest(text)) {
    return Bad(path, absl::StrCat("has JSON nested deeper than ", kMaxJsonDepth,
                                  " or of more than ", kMaxJsonValues, " values"));
  }
  json parsed = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (parsed.is_discarded()) {
    parsed = json::parse(WithoutNonFinite(text), nullptr, /*allow_exceptions=*/false);
  }
  if (!parsed.is_object()) return Bad(path, otherwise);
  return parsed;
}

absl::StatusOr<json> ReadJsonObject(const std::string& path) {
  if (!IsFile(path)) return Bad(path, "is missing");
  D2G_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxJsonBytes));
  return ParseObject(path, text, "is not a JSON object");
}

int64_t BytesOf(const std::string& dtype) {
  if (dtype == "F64" || dtype == "I64" || dtype == "U64") return 8;
  if (dtype == "F32" || dtype == "I32" || dtype == "U32") return 4;
  if (dtype == "F16" || dtype == "BF16" || dtype == "I16" || dtype == "U16") return 2;
  if (dtype == "I8" || dtype == "U8" || dtype == "BOOL" || dtype == "F8_E4M3" ||
      dtype == "F8_E5M2") {
    return 1;
  }
  return 0;
}

// Length of the data part that a header promises.
absl::StatusOr<int64_t> DataBytes(const std::string& path, const json& header) {
  std::vector<std::pair<int64_t, int64_t>> extents;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    const auto bad = [&path, &tensor = name](const std::string& why) {
      return Bad(path, absl::StrCat("is damaged: tensor ", tensor, " ", why));
    };
    const auto is_count = [](const json& value) { return value.is_number_unsigned(); };
    if (!entry.is_object() || !entry.contains("dtype") || !entry["dtype"].is_string() ||
        !entry.contains("shape") || !entry["shape"].is_array() || !entry.contains("data_offsets") ||
        !entry["data_offsets"].is_array() || entry["data_offsets"].size() != 2 ||
        !is_count(entry["data_offsets"][0]) || !is_count(entry["data_offsets"][1])) {
      return bad("lacks dtype, shape or data_offsets");
    }
    int64_t bytes = BytesOf(entry["dtype"].get<std::string>());
    if (bytes == 0) return bad("has unknown dtype " + entry["dtype"].get<std::string>());
    for (const json& side : entry["shape"]) {
      if (!is_count(side) || __builtin_mul_overflow(bytes, side.get<int64_t>(), &bytes)) {
        return bad("has a bad shape");
      }
    }
    const auto begin = entry["data_offsets"][0].get<int64_t>();
    const auto end = entry["data_offsets"][1].get<int64_t>();
    if (begin < 0 || end - begin != bytes) {
      return bad(absl::StrCat("spans ", end - begin, " bytes; its dtype and shape need ", bytes));
    }
    extents.emplace_back(begin, end);
  }
  std::sort(extents.begin(), extents.end());
  int64_t at = 0;
  for (const auto& [begin, end] : extents) {
    if (begin != at) return Bad(path, absl::StrCat("is damaged: its tensors leave byte ", at));
    at = end;
  }
  return at;
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

  // The files that worker/model reads: one named `stem`, or the pieces that `stem`.index.json
  // lists, or those of the folder's only variant.
  absl::Status Weights(const std::string& folder, const std::string& stem) {
    const std::string whole = absl::StrCat(folder, "/", stem, ".safetensors");
    const std::string index = absl::StrCat(whole, ".index.json");
    if (IsFile(Path(whole)) || IsFile(Path(index)))
      return ChosenWeights(folder, stem, whole, index);
    const std::set<std::string> variants = Variants(folder, stem);
    if (variants.empty()) return File(whole);
    if (variants.size() > 1) {
      return Bad(Path(folder), absl::StrCat("has several variants of ", stem, ".safetensors (",
                                            absl::StrJoin(variants, ", "), ") and no plain one"));
    }
    const std::string& variant = *variants.begin();
    return ChosenWeights(folder, stem,
                         absl::StrCat(folder, "/", stem, ".", variant, ".safetensors"),
                         absl::StrCat(whole, ".index.", variant, ".json"));
  }

  // Where both are there transformers, whose stem is "model", reads the file and diffusers the
  // index.
  absl::Status ChosenWeights(const std::string& folder, const std::string& stem,
                             const std::string& whole, const std::string& index) {
    if (IsFile(Path(whole)) && (stem == "model" || !IsFile(Path(index)))) {
      D2G_RETURN_IF_ERROR(File(whole));
      return CheckSafetensorsFile(Path(whole));
    }
    D2G_ASSIGN_OR_RETURN(const json parsed, Json(index));
    if (!parsed.contains("weight_map") || !parsed["weight_map"].is_object()) {
      return Bad(Path(index), "has no weight_map");
    }
    std::set<std::string> pieces;
    for (const auto& [name, piece] : parsed["weight_map"].items()) {
      if (!piece.is_string() || piece.get<std::string>().find('/') != std::string::npos) {
        return Bad(Path(index), "maps tensor " + name + " to something that is no file name");
      }
      pieces.insert(piece.get<std::string>());
    }
    for (const std::string& piece : pieces) {
      D2G_RETURN_IF_ERROR(File(absl::StrCat(folder, "/", piece)));
      D2G_RETURN_IF_ERROR(CheckSafetensorsFile(Path(absl::StrCat(folder, "/", piece))));
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

  // "fp16" for stem.fp16.safetensors and for stem.safetensors.index.fp16.json.
  std::set<std::string> Variants(const std::string& folder, const std::string& stem) const {
    std::set<std::string> variants;
    std::error_code error;
    fs::directory_iterator entry(Path(folder), error);
    for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
      const std::string name = entry->path().filename().string();
      absl::string_view middle = name;
      if (absl::ConsumePrefix(&middle, stem + ".safetensors.index.")) {
        if (absl::ConsumeSuffix(&middle, ".json")) variants.emplace(middle);
      } else if (absl::ConsumePrefix(&middle, stem + ".") &&
                 absl::ConsumeSuffix(&middle, ".safetensors") &&
                 !absl::StrContains(middle, "-of-")) {
        variants.emplace(middle);
      }
    }
    return variants;
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
                                     const Tick& tick, int64_t* total_bytes) {
  Digester whole;
  *total_bytes = 0;
  for (const std::string& relative : files) {
    Digester one;
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

}  // namespace

absl::Status CheckSafetensorsFile(const std::string& path) {
  std::error_code error;
  const uintmax_t size = fs::file_size(path, error);
  if (error) return Bad(path, "cannot be read: " + error.message());
  std::ifstream file(path, std::ios::binary);
  unsigned char length_bytes[8] = {};
  if (!file.read(reinterpret_cast<char*>(length_bytes), sizeof(length_bytes))) {
    return Bad(path, absl::StrCat("is truncated: ", size, " bytes, too short for a header"));
  }
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | length_bytes[i];
  if (length > kMaxHeaderBytes) {
    return Bad(path, absl::StrCat("is not safetensors: its header length is ", length,
                                  "; the limit is ", kMaxHeaderBytes));
  }
  if (8 + length > size) {
    return Bad(path, absl::StrCat("is truncated: ", size, " bytes; its header alone ends at ",
                                  8 + length));
  }
  std::string text(length, '\0');
  if (!file.read(text.data(), static_cast<std::streamsize>(length))) {
    return Bad(path, "cannot be read");
  }
  D2G_ASSIGN_OR_RETURN(
      const json header,
      ParseObject(path, text, "is not safetensors: its header is not a JSON object"));
  D2G_ASSIGN_OR_RETURN(const int64_t data, DataBytes(path, header));
  const uint64_t expected = 8 + length + static_cast<uint64_t>(data);
  if (size != expected) {
    return Bad(path, absl::StrCat(size < expected ? "is truncated" : "has bytes too many", ": ",
                                  size, " bytes; its header says ", expected));
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelFolder> InspectModelFolder(const std::string& path, const Tick& tick) {
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
  D2G_ASSIGN_OR_RETURN(const json unet, inspector.Json("unet/config.json"));
  const std::string unet_config = inspector.Path("unet/config.json");
  D2G_ASSIGN_OR_RETURN(folder.latent_channels, PositiveField(unet_config, unet, "in_channels"));
  if (unet.contains("sample_size") && unet["sample_size"].is_array() &&
      unet["sample_size"].size() == 2) {
    const json sides = {{"height", unet["sample_size"][0]}, {"width", unet["sample_size"][1]}};
    D2G_ASSIGN_OR_RETURN(folder.latent_height, PositiveField(unet_config, sides, "height"));
    D2G_ASSIGN_OR_RETURN(folder.latent_width, PositiveField(unet_config, sides, "width"));
  } else {
    D2G_ASSIGN_OR_RETURN(folder.latent_height, PositiveField(unet_config, unet, "sample_size"));
    folder.latent_width = folder.latent_height;
  }
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
                                            const Tick& tick) {
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

absl::StatusOr<std::string> FolderDigest(const std::string& path, const Tick& tick) {
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

}  // namespace d2g::common
