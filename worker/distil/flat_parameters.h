// A network's trainable parameters laid out in one flat fp32 buffer.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/weights/safetensors.h"

namespace d2g::distil {

// Owns one flat buffer of values and one of gradients, both fp32 and contiguous, and moves a
// network's parameters into them: every parameter becomes a leaf that views its part of the values,
// its .grad views the same part of the gradients. So a backward pass fills the flat gradient in
// place, one all-reduce of it reduces every parameter, and optimiser and EMA are single kernels
// over flat tensors. Parts are in ascending order of name, each starting at a multiple of 16
// elements (64 bytes, for oneDNN); the padding stays 0. Two ranks with the same names and shapes
// have the same layout.
//
// Not thread-safe. From then on nobody may assign to a parameter or its .grad, only write through.
class FlatParameters {
 public:
  // `parameters` are the network's own handles (UNet2DConditionModel::parameters()), fp32 leaves on
  // one device. Throws model::Error naming one that is not, or when there are none.
  explicit FlatParameters(const model::TensorMap& parameters);

  FlatParameters(const FlatParameters&) = delete;
  FlatParameters& operator=(const FlatParameters&) = delete;

  // The network's handles by name: leaves that require grad, views of values().
  const model::TensorMap& tensors() const { return tensors_; }
  // [N] values, fp32. Plain data without autograd history.
  const at::Tensor& values() const { return values_; }
  // [N] gradients, fp32; what the parameters' .grad views.
  const at::Tensor& gradients() const { return gradients_; }
  // Elements of the flat buffers, padding included.
  int64_t size() const { return values_.numel(); }

  void ZeroGradients();
  // Freezes (false) or thaws the parameters for the graphs built from now on.
  void SetRequiresGrad(bool requires_grad);

  // Offset and count of the elements, padding included, of the parameters whose names start with
  // `prefix`; they lie side by side. Throws model::Error when there is none.
  std::pair<int64_t, int64_t> StretchOf(const std::string& prefix) const;

  // `flat` ([N], laid out like values()) cut into named tensors: views of `flat`, without padding.
  model::TensorMap Unflatten(const at::Tensor& flat) const;
  // Copies named tensors into `flat`. Throws model::Error naming a tensor that is missing, unknown
  // or of another shape.
  void Flatten(const model::TensorMap& named, const at::Tensor& flat,
               const std::string& what) const;

 private:
  struct Part {
    std::string name;
    int64_t offset;
    std::vector<int64_t> shape;
    int64_t count;
  };

  std::vector<Part> parts_;
  at::Tensor values_;
  at::Tensor gradients_;
  model::TensorMap tensors_;
};

}  // namespace d2g::distil
