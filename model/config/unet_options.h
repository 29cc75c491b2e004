// Readers of the kinds of options that a U-Net's config has. Each throws Error naming file, option,
// value and limit for what it cannot read.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/config/activation.h"
#include "model/files/json_config.h"

namespace d2g::model {

// Far above every model, and low enough that a wrong file is refused before memory is asked for.
inline constexpr int64_t kMaxLevels = 16;
inline constexpr int64_t kMaxChannels = 1 << 16;
inline constexpr int64_t kMaxWidth = 1 << 20;
inline constexpr int64_t kMaxLayers = 10'000;  // of one block, and of the network in all
inline constexpr int64_t kMaxKernel = 255;
inline constexpr int64_t kMaxClasses = 1 << 24;

// Numbers of transformer layers: one for all resnets of a block, or one for each of them.
using Depths = std::vector<int64_t>;

int64_t IntIn(const JsonConfig& json, const char* key, int64_t fallback, int64_t lower,
              int64_t upper);
// An option whose absence means something: 0 then, 1 to upper otherwise.
int64_t OptionalInt(const JsonConfig& json, const char* key, int64_t upper);
void RequireIn(const JsonConfig& json, const char* key, const std::vector<int64_t>& values,
               int64_t lower, int64_t upper);

// The activations of diffusers' U-Nets, in upper or lower case; silu if the key is missing.
Activation ReadActivation(const JsonConfig& json, const char* key);
std::optional<Activation> OptionalActivation(const JsonConfig& json, const char* key);

// `levels` names of blocks, each either `plain` ("UpBlock2D", say) or "CrossAttn" and `plain`.
std::vector<std::string> BlockTypes(const JsonConfig& json, const char* key,
                                    const std::vector<std::string>& fallback, size_t levels,
                                    const std::string& plain);

// A number from 1 to upper for all levels, or a list with one for each, which may be null (0 then)
// where `read` says that nothing reads it.
std::vector<int64_t> PerLevel(const JsonConfig& json, const char* key, int64_t fallback,
                              const std::vector<bool>& read, int64_t upper);

// Depths of all blocks from a number for all, or a list of numbers and lists. Sets `nested` if it
// holds lists; leaves it otherwise.
std::vector<Depths> ReadDepths(const JsonConfig& json, const char* key, size_t levels,
                               bool* nested);
// Checks that a block whose option is `block` has a depth for each of `layers` resnets, and drops
// those beyond, as diffusers does.
void RequireDepths(const JsonConfig& json, const char* key, const nlohmann::json& block,
                   Depths& depths, int64_t layers);

}  // namespace d2g::model
