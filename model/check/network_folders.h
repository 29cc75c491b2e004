// The folders of small networks that a job names beside its teacher: the latent feature network of
// the regression and the evaluator. Read by their configs and headers, without LibTorch: when a job
// is submitted, and again by who loads the weights.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/config/parameter_match.h"
#include "model/config/sequential_config.h"

namespace d2g::model {

// All functions throw model::Error naming the folder or file and what is wrong, and model::IoError
// when a file cannot be read.

// Its config, once its model.safetensors has the parameters that it asks for and no others.
SequentialConfig CheckNetworkFolder(const std::string& folder);

// The taps whose features are compared: all but "logits". Throws when there is none, and when the
// network does not read `latent_channels` channels.
std::vector<std::string> FeatureTaps(const SequentialConfig& config, int64_t latent_channels);

// That training can use the folder for latents of so many channels, where that is known.
void CheckFeatureFolder(const std::string& folder, std::optional<int64_t> latent_channels);

// What reference.safetensors must hold: "mean" [D] and "cov" [D, D]. `path` is for messages.
void CheckReference(const model::StoredTensors& stored, const std::string& path);

// That the evaluation can use the folder: a network with the taps "features" and "logits", and its
// reference.
void CheckEvaluatorFolder(const std::string& folder);

}  // namespace d2g::model
