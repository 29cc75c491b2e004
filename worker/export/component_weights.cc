#include "worker/export/component_weights.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>

#include "model/config/clip_text_config.h"
#include "model/files/json_config.h"
#include "model/files/safetensors_header.h"
#include "model/files/weight_files.h"

namespace d2g::exporter {
namespace {

using nlohmann::json;

struct Component {
  std::string folder;
  std::string stem;
  bool is_text = false;
};

// Those of the teacher's files.
std::vector<Component> ComponentsOf(const StudentFolder& folder) {
  std::vector<Component> found;
  for (const Component& component :
       {Component{"vae", "diffusion_pytorch_model"}, Component{"text_encoder", "model", true},
        Component{"text_encoder_2", "model", true}}) {
    if (std::any_of(
            folder.teacher_files.begin(), folder.teacher_files.end(),
            [&](const std::string& file) { return file.starts_with(component.folder + "/"); })) {
      found.push_back(component);
    }
  }
  return found;
}

bool LacksPrefix(const std::string& file) {
  for (const auto& entry : model::ReadSafetensorsHeader(file).entries) {
    if (model::ClipTextTensorName(entry.name) != entry.name) return true;
  }
  return false;
}

// As transformers and diffusers number them, from 1.
std::string ShardName(const std::string& stem, size_t number, size_t count) {
  char numbers[32];
  std::snprintf(numbers, sizeof(numbers), "-%05zu-of-%05zu", number, count);
  return stem + numbers + ".safetensors";
}

}  // namespace

std::vector<ComponentWeights> WeightsToTake(const StudentFolder& folder) {
  std::vector<ComponentWeights> all;
  for (const Component& component : ComponentsOf(folder)) {
    const std::string path = folder.teacher_path + "/" + component.folder;
    const model::WeightFiles weights = model::ChooseWeightFiles(path, component.stem);
    const std::string plain = component.stem + ".safetensors";
    const std::string plain_index = plain + ".index.json";
    const bool sharded = !weights.index.empty();
    const bool is_variant =
        sharded ? weights.index != plain_index : weights.shards.begin()->first != plain;
    ComponentWeights& taken = all.emplace_back();
    bool any_completed = false;
    std::map<std::string, std::string> new_names;
    for (const auto& [name, tensors] : weights.shards) {
      std::string& to = new_names[name];
      to = !is_variant ? name
           : sharded   ? ShardName(component.stem, new_names.size(), weights.shards.size())
                       : plain;
      const bool completes = component.is_text && LacksPrefix(path + "/" + name);
      any_completed |= completes;
      taken.files.push_back(
          {component.folder + "/" + name, component.folder + "/" + to, completes});
    }
    if (!sharded) continue;
    if (!is_variant && !any_completed) {
      const std::string index = component.folder + "/" + weights.index;
      taken.files.push_back({index, index});
      continue;
    }
    json index = model::ReadJsonFile(path + "/" + weights.index);
    index["weight_map"] = json::object();
    for (const auto& [name, tensors] : weights.shards) {
      for (const std::string& tensor : tensors) {
        index["weight_map"][component.is_text ? model::ClipTextTensorName(tensor) : tensor] =
            new_names.at(name);
      }
    }
    taken.index_path = component.folder + "/" + plain_index;
    taken.index_text = index.dump(2) + "\n";
  }
  return all;
}

}  // namespace d2g::exporter
