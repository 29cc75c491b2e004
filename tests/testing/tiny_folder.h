// Folders that a job names, complete and small, written without LibTorch. Weights are no random
// numbers but a fixed pattern: for tests that look at a folder and do not run it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "model/files/safetensors_header.h"

namespace d2g::testing {

// Latents of 4 x 4 x 4.
inline constexpr int kTinyLatentChannels = 4;
inline constexpr int kTinyLatentSide = 4;

// Writes unet, text_encoder, tokenizer, scheduler and vae to `folder` (made where missing).
// Pictures are 8 x 8 with one channel.
void WriteTinyFolder(const std::string& folder);

// A SequentialNet that reads `channels` channels, with the taps features (2 wide) and logits.
void WriteTinyNet(const std::string& folder, int64_t channels);
// The same as an evaluator: with labels and reference.safetensors.
void WriteTinyEvaluator(const std::string& folder);

// Makes the folders on the way.
void WriteText(const std::string& path, const std::string& text);
// Changes a JSON file.
void EditJson(const std::string& path, const std::function<void(nlohmann::json&)>& change);

struct TinyTensor {
  std::vector<int64_t> shape;
  model::SafetensorsDtype dtype = model::SafetensorsDtype::kF32;
};
using TinyTensors = std::map<std::string, TinyTensor>;

void WriteTensors(const std::string& path, const TinyTensors& tensors);
// Changes what a weight file holds; all of it gets the pattern again.
void EditTensors(const std::string& path, const std::function<void(TinyTensors&)>& change);

}  // namespace d2g::testing
