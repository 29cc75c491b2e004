#include "worker/model/tool/model_summary.h"

#include <algorithm>
#include <filesystem>
#include <functional>
#include <set>
#include <sstream>

#include "worker/model/files/error.h"
#include "worker/model/files/json_config.h"
#include "worker/model/network/autoencoder.h"
#include "worker/model/network/clip_text_model.h"
#include "worker/model/network/unet_2d_condition.h"
#include "worker/model/solver/scheduler_config.h"
#include "worker/model/text_to_image.h"
#include "worker/model/tokenizer/clip_tokenizer.h"

namespace d2g::model {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// Tensors without memory: a load on this device checks names and shapes and reads no weights.
const at::TensorOptions kNoMemory = at::device(at::kMeta).dtype(at::kFloat);

std::string Joined(const std::vector<int64_t>& values) {
  std::ostringstream out;
  const bool all_same =
      std::adjacent_find(values.begin(), values.end(), std::not_equal_to<>()) == values.end();
  for (size_t i = 0; i < (all_same ? std::min<size_t>(1, values.size()) : values.size()); ++i) {
    out << (i ? "/" : "") << values[i];
  }
  return out.str();
}

// As --dtype says it, and as LibTorch for the others.
std::string DtypeName(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return "fp32";
    case at::kHalf:
      return "fp16";
    case at::kBFloat16:
      return "bf16";
    case at::kDouble:
      return "fp64";
    default:
      return c10::toString(type);
  }
}

void CountTensors(const TensorMap& tensors, ComponentSummary* summary) {
  std::set<std::string> dtypes(summary->dtypes.begin(), summary->dtypes.end());
  for (const auto& [name, tensor] : tensors) {
    summary->parameters += tensor.numel();
    summary->bytes += static_cast<int64_t>(tensor.nbytes());
    dtypes.insert(DtypeName(tensor.scalar_type()));
  }
  summary->dtypes.assign(dtypes.begin(), dtypes.end());
}

// What is known of the parts while they are looked at.
struct Parts {
  std::unique_ptr<UNet2DConditionModel> unet;
  std::unique_ptr<Autoencoder> vae;
  std::unique_ptr<ClipTextModel> text_encoder;
};

void LookAtUNet(const std::string& folder, ComponentSummary* summary, Parts* parts) {
  CountTensors(ReadSafetensorsFolder(folder, "diffusion_pytorch_model"), summary);
  parts->unet =
      std::make_unique<UNet2DConditionModel>(UNet2DConditionModel::Load(folder, kNoMemory));
  const UNetConfig& c = parts->unet->config();
  std::ostringstream out;
  out << "channels " << Joined(c.block_out_channels) << ", heads " << Joined(c.attention_heads)
      << ", text width " << Joined(c.cross_attention_dim);
  summary->options = out.str();
}

void LookAtTextEncoder(const std::string& folder, ComponentSummary* summary, Parts* parts) {
  CountTensors(ReadSafetensorsFolder(folder, "model"), summary);
  auto model = std::make_unique<ClipTextModel>(ClipTextModel::Load(folder, kNoMemory));
  const ClipTextConfig& c = model->config();
  std::ostringstream out;
  out << c.num_hidden_layers << " layers, width " << c.hidden_size << ", " << c.num_attention_heads
      << " heads, " << c.max_position_embeddings << " positions, " << c.hidden_act;
  summary->options = out.str();
  if (summary->name == "text_encoder") parts->text_encoder = std::move(model);
}

void LookAtVae(const std::string& folder, ComponentSummary* summary, Parts* parts) {
  CountTensors(ReadSafetensorsFolder(folder, "diffusion_pytorch_model"), summary);
  parts->vae = LoadAutoencoder(folder, kNoMemory);
  const Autoencoder& c = *parts->vae;
  std::ostringstream out;
  out << c.latent_channels() << " latent channels, side / " << c.scale() << ", scaling factor "
      << c.scaling_factor();
  summary->options = out.str();
}

void LookAtTokenizer(const std::string& folder, ComponentSummary* summary) {
  const ClipTokenizer tokenizer = ClipTokenizer::Load(
      folder, summary->class_name == "CLIPTokenizerFast" ? TokenizerFlavour::kFast
                                                         : TokenizerFlavour::kSlow);
  std::ostringstream out;
  out << tokenizer.vocab_size() << " tokens, length " << tokenizer.model_max_length();
  summary->options = out.str();
}

void LookAtScheduler(const std::string& folder, ComponentSummary* summary) {
  const SchedulerConfig config = SchedulerConfig::FromFile(folder + "/scheduler_config.json");
  std::ostringstream out;
  out << ParametrizationName(config.prediction_type) << ", " << config.num_train_timesteps
      << " timesteps, betas "
      << (config.trained_betas.empty() ? config.beta_schedule : std::string("listed")) << ", "
      << config.timestep_spacing << (config.rescale_betas_zero_snr ? ", zero terminal SNR" : "");
  summary->options = out.str();
}

// Runs what d2g would run for the class, and keeps what it says against it.
void LookAt(const std::string& folder, ComponentSummary* summary, Parts* parts) {
  const std::string& name = summary->class_name;
  try {
    if (name == "UNet2DConditionModel") {
      LookAtUNet(folder, summary, parts);
    } else if (name == "CLIPTextModel" || name == "CLIPTextModelWithProjection") {
      LookAtTextEncoder(folder, summary, parts);
    } else if (IsAutoencoderClass(name)) {
      LookAtVae(folder, summary, parts);
    } else if (name == "CLIPTokenizer" || name == "CLIPTokenizerFast") {
      LookAtTokenizer(folder, summary);
    } else if (summary->name == "scheduler") {
      LookAtScheduler(folder, summary);
    } else {
      static const std::set<std::string> kNeeded = {"unet",        "text_encoder",   "vae",
                                                    "tokenizer",   "transformer",    "prior",
                                                    "tokenizer_2", "text_encoder_2", ""};
      summary->used = kNeeded.contains(summary->name);
      if (summary->used) summary->trouble = "class " + name + " is not supported";
    }
  } catch (const Error& error) {
    summary->trouble = error.what();
  } catch (const c10::Error& error) {
    summary->trouble = error.what_without_backtrace();
  }
}

std::string TextOf(const json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : "";
}

// The class of a component's own config: diffusers writes _class_name, transformers architectures.
std::string ClassOfConfig(const json& config) {
  const std::string name = TextOf(config, "_class_name");
  if (!name.empty()) return name;
  const auto it = config.find("architectures");
  if (it != config.end() && it->is_array() && it->size() == 1 && (*it)[0].is_string()) {
    return (*it)[0].get<std::string>();
  }
  return "";
}

constexpr char kSchedulerConfig[] = "/scheduler_config.json";
constexpr char kTokenizerConfig[] = "/tokenizer_config.json";
// Where a tokenizer's files name none.
constexpr char kTokenizerClass[] = "CLIPTokenizer";

// The file that says what a component's folder is: networks, schedulers and tokenizers have one
// each. Empty for a tokenizer without; throws Error for a folder that is no component.
std::string ConfigOfComponent(const std::string& folder) {
  std::error_code error;
  for (const char* name : {"/config.json", kSchedulerConfig, kTokenizerConfig}) {
    if (fs::exists(folder + name, error)) return folder + name;
  }
  for (const char* name : {"/tokenizer.json", "/vocab.json"}) {
    if (fs::exists(folder + name, error)) return "";
  }
  Fail(folder,
       ": has neither model_index.json (a pipeline) nor the files of one component (config.json, "
       "scheduler_config.json, tokenizer_config.json)");
}

void JoinParts(const Parts& parts, ModelSummary* summary) {
  if (parts.unet != nullptr && parts.unet->config().sample_size > 0) {
    const UNetConfig& c = parts.unet->config();
    summary->latent_shape = {c.in_channels, c.sample_size, c.sample_width};
    if (parts.vae != nullptr) {
      const int64_t scale = parts.vae->scale();
      summary->picture_shape = {parts.vae->out_channels(), c.sample_size * scale,
                                c.sample_width * scale};
    }
  }
}

ModelSummary SummarisePipeline(const std::string& path, const json& index) {
  ModelSummary summary;
  summary.path = path;
  summary.class_name = TextOf(index, "_class_name");
  summary.diffusers_version = TextOf(index, "_diffusers_version");
  Parts parts;
  for (const auto& [name, value] : index.items()) {
    if (name.starts_with("_") || !value.is_array() || value.size() != 2) continue;
    if (!value[1].is_string()) continue;  // a component that the pipeline does without
    ComponentSummary& component = summary.components.emplace_back();
    component.name = name;
    component.class_name = value[1].get<std::string>();
    LookAt(path + "/" + name, &component, &parts);
  }
  JoinParts(parts, &summary);
  if (!summary.usable()) return summary;
  // Each part is well by itself: do they make a pipeline?
  try {
    ModelOptions options;
    options.device = at::kMeta;
    options.load_vae = parts.vae != nullptr;
    options.pack = false;
    TextToImageModel::Load(path, options);
  } catch (const Error& error) {
    summary.trouble = error.what();
  }
  return summary;
}

}  // namespace

bool ModelSummary::usable() const {
  return trouble.empty() &&
         std::all_of(components.begin(), components.end(),
                     [](const ComponentSummary& c) { return c.trouble.empty(); });
}

int64_t ModelSummary::parameters() const {
  int64_t sum = 0;
  for (const ComponentSummary& component : components) {
    if (component.used) sum += component.parameters;
  }
  return sum;
}

ModelSummary SummariseModel(const std::string& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) Fail(path, ": not a folder");
  const std::string index_path = path + "/model_index.json";
  if (fs::exists(index_path, error)) {
    const json index = ReadJsonFile(index_path);
    if (!index.is_object()) Fail(index_path, ": not a JSON object");
    return SummarisePipeline(path, index);
  }
  ModelSummary summary;
  summary.path = path;
  Parts parts;
  ComponentSummary& component = summary.components.emplace_back();
  if (const std::string config_path = ConfigOfComponent(path); !config_path.empty()) {
    const json config = ReadJsonFile(config_path);
    if (!config.is_object()) Fail(config_path, ": not a JSON object");
    summary.class_name = config_path.ends_with(kTokenizerConfig) ? TextOf(config, "tokenizer_class")
                                                                 : ClassOfConfig(config);
    summary.diffusers_version = TextOf(config, "_diffusers_version");
    if (config_path.ends_with(kSchedulerConfig)) component.name = "scheduler";
    if (config_path.ends_with(kTokenizerConfig) && summary.class_name.empty()) {
      summary.class_name = kTokenizerClass;
    }
  } else {
    summary.class_name = kTokenizerClass;
  }
  component.class_name = summary.class_name;
  LookAt(path, &component, &parts);
  JoinParts(parts, &summary);
  return summary;
}

}  // namespace d2g::model
