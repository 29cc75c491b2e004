#include "model/pipeline/pipeline_index.h"

#include <algorithm>

#include "model/config/vae_config.h"
#include "model/files/error.h"
#include "model/files/json_config.h"

namespace d2g::model {

namespace {

constexpr char kStableDiffusion[] = "StableDiffusionPipeline";
constexpr char kStableDiffusionXl[] = "StableDiffusionXLPipeline";
constexpr char kRefiner[] = "StableDiffusionXLImg2ImgPipeline";
// No picture side is 2^31 latent sides.
constexpr size_t kMaxLevels = 16;

// Reads one folder's index.
class Reader {
 public:
  explicit Reader(const std::string& folder)
      : folder_(folder),
        index_(ReadJsonFile(folder + "/model_index.json"), folder + "/model_index.json") {}

  PipelineIndex Read() {
    ReadClass();
    RequireClass("unet", {"UNet2DConditionModel"});
    if (out_.is_xl) {
      ReadXlTexts();
    } else {
      AddText("tokenizer", "text_encoder", {"CLIPTextModel"});
    }
    ReadVae();
    out_.force_zeros_for_empty_prompt = index_.Bool("force_zeros_for_empty_prompt", true);
    return out_;
  }

 private:
  // Components are [library, class]; [null, null] or null stands for none.
  bool Has(const char* component) const {
    const nlohmann::json& value = index_.Get(component);
    return !value.is_null() && !(value.is_array() && value.size() == 2 && value[1].is_null());
  }

  std::string ClassOf(const char* component) const {
    const nlohmann::json& value = index_.Get(component);
    if (!value.is_array() || value.size() != 2 || !value[1].is_string()) {
      index_.FailAt(component, "component is missing (must be [library, class])");
    }
    return value[1].get<std::string>();
  }

  std::string RequireClass(const char* component, const std::vector<std::string>& classes) const {
    std::string name = ClassOf(component);
    if (std::find(classes.begin(), classes.end(), name) != classes.end()) return name;
    std::string known;
    for (const std::string& item : classes) known += (known.empty() ? "" : " and ") + item;
    index_.FailAt(component,
                  "not supported (only " + known + (classes.size() > 1 ? " are)" : " is)"));
  }

  void ReadClass() {
    const nlohmann::json& name = index_.Get("_class_name");
    if (name.is_null()) {
      out_.is_xl = Has("text_encoder_2");
    } else if (name == kStableDiffusionXl || name == kRefiner) {
      out_.is_xl = true;
      if (name == kRefiner) {
        out_.requires_aesthetics_score = index_.Bool("requires_aesthetics_score", false);
      }
    } else if (name != kStableDiffusion) {
      index_.FailAt("_class_name", std::string("not supported (only ") + kStableDiffusion + ", " +
                                       kStableDiffusionXl + " and " + kRefiner + " are)");
    }
  }

  void AddText(const char* tokenizer, const char* encoder,
               const std::vector<std::string>& encoders) {
    TextComponents text;
    text.encoder = encoder;
    text.projects = RequireClass(encoder, encoders) == "CLIPTextModelWithProjection";
    text.tokenizer = tokenizer;
    text.flavour =
        RequireClass(tokenizer, {"CLIPTokenizer", "CLIPTokenizerFast"}) == "CLIPTokenizerFast"
            ? TokenizerFlavour::kFast
            : TokenizerFlavour::kSlow;
    out_.texts.push_back(text);
  }

  void ReadXlTexts() {
    const std::vector<std::string> encoders = {"CLIPTextModel", "CLIPTextModelWithProjection"};
    // A refiner has only the second encoder.
    if (Has("tokenizer") || Has("text_encoder")) AddText("tokenizer", "text_encoder", encoders);
    AddText("tokenizer_2", "text_encoder_2", {"CLIPTextModelWithProjection"});
  }

  void ReadVae() {
    out_.has_vae = Has("vae");
    if (!out_.has_vae) return;
    const std::string name = ClassOf("vae");
    if (!IsAutoencoderClass(name)) {
      index_.FailAt("vae", "not supported (only AutoencoderKL and AutoencoderTiny are)");
    }
    const std::string path = folder_ + "/vae/config.json";
    const JsonConfig config(ReadJsonFile(path), path);
    const char* key =
        name == "AutoencoderTiny" ? "decoder_block_out_channels" : "block_out_channels";
    size_t levels = name == "AutoencoderTiny" ? 4 : 1;
    if (config.Has(key)) {
      if (!config.IsList(key)) config.FailAt(key, "must be a list");
      levels = config.Get(key).size();
    }
    if (levels < 1 || levels > kMaxLevels) {
      config.FailAt(key, "must have 1 to " + std::to_string(kMaxLevels) + " entries");
    }
    out_.vae_scale = int64_t{1} << (levels - 1);
  }

  std::string folder_;
  JsonConfig index_;
  PipelineIndex out_;
};

}  // namespace

PipelineIndex PipelineIndex::FromFolder(const std::string& folder) { return Reader(folder).Read(); }

}  // namespace d2g::model
