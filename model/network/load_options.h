// How a network's weights are read from its folder.
#pragma once

#include <string>

#include <ATen/ATen.h>

namespace d2g::model {

struct LoadOptions {
  LoadOptions() = default;
  // Weights as copies in these options: what a network that will be trained needs.
  LoadOptions(const at::TensorOptions& options) : tensors(options) {}
  LoadOptions(at::ScalarType dtype) : tensors(dtype) {}

  // Device and dtype of the parameters.
  at::TensorOptions tensors = at::kFloat;
  // The file to read where a folder holds several: "fp16" for model.fp16.safetensors. Empty: the
  // plain file, or the only variant there is.
  std::string variant;
  // Parameters that are stored in the wanted dtype, for the CPU, are the mapped file itself:
  // loading copies nothing, and processes that run the same folder share its pages. Writing to one
  // copies the page written. The file must not be cut or overwritten in place while the network
  // lives.
  bool share_file = false;
  // Weights are also laid out for the CPU's kernels (packed_weight.h), which are used whenever
  // gradients are off.
  bool pack = false;
  // With pack: weights that are not the mapped file are given up once they are packed. There are no
  // gradients then, and the network's parameters() shows them empty.
  bool only_packed = false;
};

}  // namespace d2g::model
