// Spares LibTorch's bookkeeping of history where none is kept.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>

#include <optional>

namespace d2g::model {

// Calls of operators in its scope, on this thread, go straight to the kernels if gradients were off
// when it was made; else it does nothing. Saves the two layers of dispatch that an operator passes
// for autograd, which a small network at batch 1 feels. Tensors made in the scope have neither
// view nor version tracking, so never write in place there to one that a gradient may need, and do
// not switch gradients on. Unlike c10::InferenceMode it makes ordinary tensors: what a network made
// may be the input of a training step.
class NoHistory {
 public:
  NoHistory() {
    if (!at::GradMode::is_enabled()) below_autograd_.emplace();
  }

 private:
  std::optional<at::AutoDispatchBelowADInplaceOrView> below_autograd_;
};

}  // namespace d2g::model
