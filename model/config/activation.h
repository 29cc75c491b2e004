// The activation functions that networks' configs name.
#pragma once

#include <string>

namespace d2g::model {

enum class Activation { kSilu, kGelu, kQuickGelu, kRelu, kMish };

// Names as in diffusers and transformers: silu, swish, gelu, quick_gelu, relu, mish. Throws Error
// naming `source` for any other.
Activation ParseActivation(const std::string& name, const std::string& source);

}  // namespace d2g::model
