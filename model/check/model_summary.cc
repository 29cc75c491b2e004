#include "model/check/model_summary.h"

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <sstream>

#include "model/config/clip_text_config.h"
#include "model/config/stored_weights.h"
#include "model/config/unet_parameters.h"
#include "model/config/vae_parameters.h"
#include "model/files/error.h"
#include "model/files/json_config.h"
#include "model/files/weight_files.h"
#include "model/pipeline/pipeline_fit.h"
#include "model/solver/run_check.h"
#include "model/tokenizer/clip_tokenizer.h"

namespace d2g::model {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string Joined(const std::vector<int64_t>& values) {
  std::ostringstream out;
  const bool all_same =
      std::adjacent_find(values.begin(), values.end(), std::not_equal_to<>()) == values.end();
  for (size_t i = 0; i < (all_same ? std::min<size_t>(1, values.size()) : values.size()); ++i) {
    out << (i ? "/" : "") << values[i];
  }
  return out.str();
}

void CountTensors(const StoredWeights& weights, ComponentSummary* summary) {
  summary->parameters = weights.elements;
  summary->bytes = weights.bytes;
  summary->dtypes.assign(weights.dtypes.begin(), weights.dtypes.end());
}

// What is known of the parts while they are looked at.
struct Parts {
  std::optional<UNetConfig> unet;
  std::optional<AutoencoderTraits> vae;
  std::map<std::string, ClipTextConfig> encoders;
  std::map<std::string, int64_t> lengths;  // model_max_length of the tokenizers
};

void LookAtUNet(const std::string& folder, ComponentSummary* summary, Parts* parts) {
  const StoredWeights weights = ReadStoredWeights(folder, kDiffusersWeights);
  CountTensors(weights, summary);
  const UNetConfig c = UNetConfig::FromFile(folder + "/config.json");
  summary->notes =
      MatchParameters(weights.tensors, UNetParameters(c), UNetParameterRules(), folder).notes;
  std::ostringstream out;
  out << "channels " << Joined(c.block_out_channels) << ", heads " << Joined(c.attention_heads)
      << ", text width " << Joined(c.cross_attention_dim);
  summary->options = out.str();
  parts->unet = c;
}

void LookAtTextEncoder(const std::string& folder, ComponentSummary* summary, Parts* parts) {
  const StoredWeights weights = ReadStoredWeights(folder, kTransformersWeights);
  CountTensors(weights, summary);
  const ClipTextConfig c =
      WithStoredProjection(ClipTextConfig::FromFile(folder + "/config.json"), weights.tensors);
  summary->notes =
      MatchParameters(weights.tensors, ClipTextParameters(c), ClipTextParameterRules(c), folder)
          .notes;
  std::ostringstream out;
  out << c.num_hidden_layers << " layers, width " << c.hidden_size << ", " << c.num_attention_heads
      << " heads, " << c.max_position_embeddings << " positions, "
      << TextActivationName(c.activation);
  summary->options = out.str();
  parts->encoders[summary->name] = c;
}

template <typename Config>
AutoencoderTraits MatchVae(const std::string& folder, const StoredWeights& weights,
                           ComponentSummary* summary) {
  const Config config = Config::FromFile(folder + "/config.json");
  summary->notes =
      MatchParameters(weights.tensors, VaeParameters(config), VaeParameterRules(), folder).notes;
  return config.Traits();
}

void LookAtVae(const std::string& folder, ComponentSummary* summary, Parts* parts) {
  const StoredWeights weights = ReadStoredWeights(folder, kDiffusersWeights);
  CountTensors(weights, summary);
  const AutoencoderTraits c = ReadVaeKind(folder + "/config.json") == VaeKind::kKl
                                  ? MatchVae<AutoencoderConfig>(folder, weights, summary)
                                  : MatchVae<AutoencoderTinyConfig>(folder, weights, summary);
  std::ostringstream out;
  out << c.latent_channels << " latent channels, side / " << c.scale() << ", scaling factor "
      << c.scaling_factor;
  summary->options = out.str();
  parts->vae = c;
}

void LookAtTokenizer(const std::string& folder, ComponentSummary* summary, Parts* parts) {
  const ClipTokenizer tokenizer = ClipTokenizer::Load(
      folder, summary->class_name == "CLIPTokenizerFast" ? TokenizerFlavour::kFast
                                                         : TokenizerFlavour::kSlow);
  std::ostringstream out;
  out << tokenizer.vocab_size() << " tokens, length " << tokenizer.model_max_length();
  summary->options = out.str();
  parts->lengths[summary->name] = tokenizer.model_max_length();
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
      LookAtTokenizer(folder, summary, parts);
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
  if (!parts.unet || parts.unet->sample_size == 0) return;
  const UNetConfig& c = *parts.unet;
  summary->latent_shape = {c.in_channels, c.sample_size, c.sample_width};
  if (!parts.vae) return;
  summary->picture_shape = {parts.vae->out_channels, c.sample_size * parts.vae->scale(),
                            c.sample_width * parts.vae->scale()};
}

// Each part is well by itself: do they make a pipeline? Throws Error where they do not.
void CheckTogether(const std::string& path, const Parts& parts) {
  const PipelineIndex index = PipelineIndex::FromFolder(path);
  ReadPipelineScheduler(path, index, SolverKind::kDdim);
  std::vector<TextFit> texts;
  for (const TextComponents& names : index.texts) {
    texts.push_back({names, parts.lengths.at(names.tokenizer), parts.encoders.at(names.encoder)});
  }
  CheckTextsFit(path, index, texts);
  CheckPipelineFits(path, index, texts, parts.unet.value(),
                    parts.vae ? std::optional(parts.vae->latent_channels) : std::nullopt);
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
  try {
    CheckTogether(path, parts);
  } catch (const Error& error) {
    summary.trouble = error.what();
  }
  return summary;
}

}  // namespace

std::string ModelSummary::Troubles() const {
  std::string all;
  const auto add = [&all](const std::string& one) {
    if (!one.empty()) all += (all.empty() ? "" : "; ") + one;
  };
  for (const ComponentSummary& component : components) add(component.trouble);
  add(trouble);
  return all;
}

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

void CheckSolverSettings(const std::string& folder, const SolverSettings& settings) {
  SchedulerConfig config = ReadPipelineScheduler(folder, PipelineIndex::FromFolder(folder),
                                                 ParseSolverKind(settings.kind));
  if (!settings.spacing.empty()) config = config.WithSpacing(settings.spacing);
  CheckRun(config, settings.steps);
}

}  // namespace d2g::model
