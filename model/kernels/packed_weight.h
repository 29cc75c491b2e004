// A layer's weight in the order in which the CPU's product kernel reads it (matrix_loops.h).
#pragma once

#include <memory>
#include <vector>

#include <ATen/ATen.h>

#include "model/kernels/matrix_loops.h"

namespace d2g::model {

// Made empty with a layer and shared by the layer's copies; Pack fills it, and from then on the
// layer uses it whenever gradients are off. After Pack it is immutable and may be used from several
// threads; Pack itself may not run beside anything else.
//
// Pictures are kept with their channels last in memory (logically [B, C, H, W] all the same), so
// that a convolution is a product of patches and a transformer's tokens are a view of a picture.
class PackedWeight {
 public:
  // weight [out, in] or [out, in, kernel, kernel], bias [out] or undefined: handles shared with the
  // layer.
  PackedWeight(at::Tensor weight, at::Tensor bias);

  // Packs the present values of an fp32 weight on the CPU. On a GPU it only brings the weights of
  // half-precision convolutions into channels-last order. Otherwise it does nothing. The memory of
  // a weight that mirrors a file is given back at once, and read again when it is needed. Any other
  // weight is freed unless `keep`: the layer then works with gradients off only.
  void Pack(bool keep = true);

  bool packed() const { return panels_.defined(); }
  // Side of the packed convolution's kernel, 1 for a linear layer. Known without the weight.
  int64_t kernel() const { return kernel_; }

  // packed(), and x is what the kernel takes: fp32 on the CPU, gradients off.
  bool Takes(const at::Tensor& x) const;

  // x [..., in] -> [..., out], plus `added` of that shape unless undefined.
  at::Tensor Linear(const at::Tensor& x, const at::Tensor& added) const;

  // Where a convolution reads and what it makes.
  struct Window {
    int64_t step = 1;
    // Before the first row and column; after the last: as many as the output's size needs.
    int64_t padding = 0;
    int64_t out_height = 0, out_width = 0;
    // Unless 0: x is enlarged to this size first, by repeating the nearest point.
    int64_t up_height = 0, up_width = 0;
    // Whether Winograd's form may be taken where it fits: benchmarks say no.
    bool winograd = true;
  };
  // x [B, in, H, W] -> [B, out, out_height, out_width], channels last in memory, plus `added` of
  // that shape unless undefined.
  at::Tensor Convolve(const at::Tensor& x, const Window& window, const at::Tensor& added) const;

 private:
  // All but the rows of the left matrix. `added` is laid out as `out`, or undefined.
  Product ProductInto(const at::Tensor& out, const at::Tensor& added) const;

  at::Tensor weight_, bias_;
  int64_t inner_ = 0, columns_ = 0, kernel_ = 1;
  at::Tensor panels_;  // undefined before Pack
};

using PackedWeights = std::vector<std::shared_ptr<PackedWeight>>;

}  // namespace d2g::model
