#include "model/check/network_folders.h"

#include "model/config/stored_weights.h"
#include "model/files/error.h"
#include "model/files/json_config.h"

namespace d2g::model {
namespace {

// Runs f; what it throws about a file of the folder names the folder.
template <typename F>
auto InFolder(const std::string& folder, const F& f) -> decltype(f()) {
  try {
    return f();
  } catch (const model::IoError&) {
    throw;
  } catch (const model::Error& error) {
    throw model::Error(folder + ": " + error.what());
  }
}

}  // namespace

SequentialConfig CheckNetworkFolder(const std::string& folder) {
  const nlohmann::json json = model::ReadJsonFile(folder + "/config.json");
  SequentialConfig config = InFolder(folder, [&] { return SequentialConfig::FromJson(json); });
  const std::string weights = folder + "/model.safetensors";
  model::RequireSameParameters(model::ReadStoredFile(weights).tensors, config.Parameters(),
                               weights);
  return config;
}

std::vector<std::string> FeatureTaps(const SequentialConfig& config, int64_t latent_channels) {
  if (config.image_channels != latent_channels) {
    model::Fail("the latent feature network reads ", config.image_channels,
                " channels, but the teacher's latents have ", latent_channels);
  }
  std::vector<std::string> taps;
  for (const std::string& name : config.tap_names) {
    if (name != "logits") taps.push_back(name);
  }
  if (taps.empty()) model::Fail("the latent feature network has no tap besides logits");
  return taps;
}

void CheckFeatureFolder(const std::string& folder, std::optional<int64_t> latent_channels) {
  const SequentialConfig config = CheckNetworkFolder(folder);
  InFolder(folder,
           [&] { return FeatureTaps(config, latent_channels.value_or(config.image_channels)); });
}

void CheckReference(const model::StoredTensors& stored, const std::string& path) {
  for (const char* name : {"mean", "cov"}) {
    const auto found = stored.find(name);
    if (found == stored.end()) model::Fail(path, " lacks the tensor ", name);
    if (!found->second.is_floating) {
      model::Fail(path, ": ", name, " is ", found->second.dtype, ", not floating point");
    }
  }
  const std::vector<int64_t>& mean = stored.at("mean").shape;
  if (mean.size() != 1 || stored.at("cov").shape != std::vector<int64_t>{mean[0], mean[0]}) {
    model::Fail(path, ": mean and cov are not [D] and [D, D]");
  }
}

void CheckEvaluatorFolder(const std::string& folder) {
  const SequentialConfig config = CheckNetworkFolder(folder);
  for (const char* tap : {"features", "logits"}) {
    if (!config.taps.contains(tap)) model::Fail(folder, ": config.json has no tap \"", tap, "\"");
  }
  const std::string reference = folder + "/reference.safetensors";
  CheckReference(model::ReadStoredFile(reference).tensors, reference);
}

}  // namespace d2g::model
