// d2g-model component: one network of a model folder on tensors from a file. For finding out where
// two implementations part.
#include <ATen/core/grad_mode.h>

#include <chrono>
#include <iostream>
#include <map>
#include <memory>
#include <set>

#include "model/files/error.h"
#include "model/network/autoencoder.h"
#include "model/network/clip_text_model.h"
#include "model/network/unet_2d_condition.h"
#include "model/tokenizer/clip_tokenizer.h"
#include "model/tool/commands.h"
#include "model/tool/run_options.h"
#include "model/torch_process.h"

namespace d2g::model {

namespace {

struct ComponentOptions {
  std::string model;
  std::string component;
  std::string in;
  std::string out;
  std::vector<std::string> texts;
  std::string variant;
  bool tile = false;
  int threads = 0;
  bool prepare = false;

  LoadOptions load() const {
    LoadOptions options;
    options.variant = variant;
    options.share_file = true;
    options.pack = true;
    options.only_packed = true;
    return options;
  }
};

at::Tensor Input(const ComponentOptions& options, const TensorMap& inputs, const char* name) {
  const auto it = inputs.find(name);
  if (it == inputs.end()) {
    Fail(options.in, ": has no tensor \"", name, "\", which ", options.component, " needs");
  }
  return it->second;
}

bool IsTokenizer(const std::string& component) { return component.starts_with("tokenizer"); }

// So that a misspelt name is seen, and a file that holds more can be used.
void SayWhatIsUnused(const ComponentOptions& options, const TensorMap& inputs) {
  static const std::map<std::string, std::set<std::string>> kTakes = {
      {"unet",
       {"sample", "timestep", "encoder_hidden_states", "added_text_embeds", "added_time_ids",
        "class_labels", "timestep_cond"}},
      {"text_encoder", {"input_ids"}},
      {"text_encoder_2", {"input_ids"}},
      {"vae_encoder", {"image"}},
      {"vae_decoder", {"latent"}}};
  for (const auto& [name, tensor] : inputs) {
    if (kTakes.at(options.component).contains(name)) continue;
    std::cerr << "note: " << options.in << ": tensor \"" << Printable(name)
              << "\" is not used: " << options.component << " takes no such input\n";
  }
}

// Throws CLI::ParseError.
void CheckUsage(const ComponentOptions& options) {
  const bool tokenizer = IsTokenizer(options.component);
  if (tokenizer && options.texts.empty()) {
    throw CLI::RequiredError("--component " + options.component + ": --text");
  }
  if (!tokenizer && options.in.empty()) {
    throw CLI::RequiredError("--component " + options.component + ": --inputs");
  }
  if (options.tile && !options.component.starts_with("vae")) {
    throw CLI::ValidationError("--tile",
                               "is for vae_encoder and vae_decoder, not for " + options.component);
  }
}

TensorMap Tokenize(const ComponentOptions& options) {
  const ClipTokenizer tokenizer = ClipTokenizer::LoadComponent(options.model, options.component);
  std::vector<int64_t> ids;
  for (const std::string& text : options.texts) {
    for (const int64_t id : tokenizer.Encode(text)) ids.push_back(id);
  }
  return {
      {"input_ids",
       at::tensor(at::ArrayRef<int64_t>(ids), at::kLong).view({-1, tokenizer.model_max_length()})}};
}

TensorMap EncodeText(const ComponentOptions& options, const at::Tensor& input_ids) {
  const ClipTextModel model =
      ClipTextModel::Load(options.model + "/" + options.component, options.load());
  const ClipTextOutput output = model.Run(input_ids.to(at::kLong));
  TensorMap tensors = {{"last_hidden_state", output.last_hidden_state},
                       {"pooled_output", output.pooled_output}};
  if (output.penultimate_hidden_state.defined()) {
    tensors["penultimate_hidden_state"] = output.penultimate_hidden_state;
  }
  if (output.text_embeds.defined()) tensors["text_embeds"] = output.text_embeds;
  return tensors;
}

TensorMap Evaluate(const ComponentOptions& options) {
  if (IsTokenizer(options.component)) return Tokenize(options);
  const TensorMap inputs = ReadSafetensors(options.in);
  SayWhatIsUnused(options, inputs);
  auto input = [&](const char* name) { return Input(options, inputs, name); };
  if (options.component == "text_encoder" || options.component == "text_encoder_2") {
    return EncodeText(options, input("input_ids"));
  }
  if (options.component == "unet") {
    LoadOptions load = options.load();
    load.pack = load.only_packed = options.prepare;
    const UNet2DConditionModel model = UNet2DConditionModel::Load(options.model + "/unet", load);
    auto optional = [&](const char* name) {
      const auto it = inputs.find(name);
      return it == inputs.end() ? at::Tensor() : it->second;
    };
    const UNetConditions conditions{optional("encoder_hidden_states"),
                                    optional("added_text_embeds"), optional("added_time_ids"),
                                    optional("class_labels"), optional("timestep_cond")};
    const at::Tensor sample = input("sample"), timestep = input("timestep");
    if (!options.prepare || timestep.numel() != 1) {
      return {{"sample", model.Forward(sample, timestep, conditions)}};
    }
    const PreparedConditions prepared = model.PrepareConditions(conditions);
    return {{"sample", model.Forward(sample, timestep.to(at::kDouble).item<double>(), prepared)}};
  }
  const std::unique_ptr<Autoencoder> model =
      LoadAutoencoder(options.model + "/vae", options.load());
  model->SetTiling(options.tile);
  if (options.component == "vae_decoder") return {{"image", model->Decode(input("latent"))}};
  const LatentDistribution latents = model->Encode(input("image"));
  // A network without a posterior has latents and no distribution of them.
  if (!latents.logvar.defined()) return {{"mean", latents.mean}, {"latents", latents.mean}};
  return {{"mean", latents.mean}, {"logvar", latents.logvar}};
}

}  // namespace

void AddComponent(CLI::App& app, Action* action) {
  auto options = std::make_shared<ComponentOptions>();
  CLI::App* command = app.add_subcommand("component", "Run one network on tensors from a file");
  command->add_option("--model", options->model, "Model folder in the diffusers layout")
      ->required();
  command
      ->add_option(
          "--component", options->component,
          "unet (sample, timestep, encoder_hidden_states and, where the model has them, "
          "added_text_embeds, added_time_ids, class_labels, timestep_cond -> sample), text_encoder "
          "and text_encoder_2 (input_ids -> last_hidden_state, penultimate_hidden_state, "
          "pooled_output and, with a projection, text_embeds), vae_encoder (image in [-1, 1] -> "
          "mean, logvar; mean and latents of AutoencoderTiny), vae_decoder (latent, unscaled -> "
          "image), tokenizer and tokenizer_2 (--text -> input_ids)")
      ->required()
      ->check(CLI::IsMember({"unet", "text_encoder", "text_encoder_2", "vae_encoder", "vae_decoder",
                             "tokenizer", "tokenizer_2"}));
  command->add_option("--inputs", options->in, "Safetensors file with the inputs");
  AddTexts(*command, "--text", &options->texts, "Text for a tokenizer; may be repeated");
  command->add_option("--outputs", options->out, "Safetensors file to write")->required();
  command->add_option("--variant", options->variant,
                      "Weight files to read where the folder holds several: fp16, non_ema, ...");
  command->add_flag("--tile", options->tile,
                    "Run the vae on overlapping tiles, as diffusers' enable_tiling");
  command->add_flag("--prepare", options->prepare,
                    "unet: rearrange weights and conditions first, as runs of many steps do");
  command->add_option("--threads", options->threads, "CPU threads")->check(WholeNumber(1, 1024));
  command->callback([options, action] {
    CheckUsage(*options);
    *action = [options] {
      CheckOutputs({{"--outputs", options->out, true}});
      SetUpTorchProcess(options->threads);
      const at::NoGradGuard no_grad;
      const auto started = std::chrono::steady_clock::now();
      const TensorMap outputs = Evaluate(*options);
      const double seconds =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
      WriteSafetensors(options->out, outputs);
      std::cout << options->out << ":";
      for (const auto& [name, tensor] : outputs) std::cout << " " << name << " " << tensor.sizes();
      std::cout << ", " << seconds << " s, peak memory " << (PeakMemoryBytes() >> 20) << " MiB\n";
    };
  });
}

}  // namespace d2g::model
