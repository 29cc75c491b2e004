// Which files of a component's folder hold its weights.
#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>

namespace d2g::model {

// The stems of the weight files that the two libraries write.
inline constexpr const char* kDiffusersWeights = "diffusion_pytorch_model";
inline constexpr const char* kTransformersWeights = "model";

// Names relative to the folder.
struct WeightFiles {
  std::string index;  // empty when one file holds all
  // The safetensors files; with an index, the tensors to take from each.
  std::map<std::string, std::set<std::string>> shards;
};

// folder/stem.safetensors, or every shard that folder/stem.safetensors.index.json names. Where both
// are there, the index; for the stem "model" (transformers) the file. With a variant, "fp16",
// stem.fp16.safetensors or stem.safetensors.index.fp16.json. Without one the plain weights, or else
// the folder's only variant. The shards themselves are not looked at.
//
// Throws IoError if none is there or the folder cannot be listed, and Error for a variant that is
// not, for several variants to choose from, for weights in other formats only, and as
// ParseShardIndex does.
WeightFiles ChooseWeightFiles(const std::string& folder, const std::string& stem,
                              const std::string& variant = "");

// The tensors that each shard of an index file holds: {"weight_map": {tensor: file, ...}, ...}.
// Throws Error naming `path` for anything else, and for a shard that is not a plain file name.
std::map<std::string, std::set<std::string>> ParseShardIndex(std::string_view text,
                                                             const std::string& path);

}  // namespace d2g::model
