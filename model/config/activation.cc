#include "model/config/activation.h"

#include "model/files/error.h"

namespace d2g::model {

Activation ParseActivation(const std::string& name, const std::string& source) {
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "gelu") return Activation::kGelu;
  if (name == "quick_gelu") return Activation::kQuickGelu;
  if (name == "relu") return Activation::kRelu;
  if (name == "mish") return Activation::kMish;
  Fail(source, ": activation \"", name,
       "\" is not supported (silu, swish, gelu, quick_gelu, relu and mish are)");
}

}  // namespace d2g::model
