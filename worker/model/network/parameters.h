// Hands a network its parameters by name and keeps account of what is missing, extra or wrong.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "worker/model/kernels/packed_weight.h"
#include "worker/model/network/load_options.h"
#include "worker/model/weights/safetensors.h"

namespace d2g::model {

using ShapeMap = std::map<std::string, std::vector<int64_t>>;

// Used once, while a network is built: the network takes every parameter that it needs, then calls
// Finish. In the shapes-only form nothing is read and Take returns undefined tensors. Not
// thread-safe.
class ParameterReader {
 public:
  // `what` names the component in errors. `source` must outlive the reader.
  ParameterReader(const TensorMap& source, std::string what, LoadOptions options);
  ParameterReader() = default;

  // A copy of the tensor in `options`, without gradient, or with share_file the tensor itself where
  // it fits. The pages of a mapped tensor that was copied are released. If it is missing or has
  // another shape, that is remembered for Finish and the result is undefined.
  at::Tensor Take(const std::string& name, const std::vector<int64_t>& shape);

  // The form of a layer's weight and bias (may be undefined) that inference uses: packed at once if
  // the options say so, else empty until packed_weights() are packed.
  std::shared_ptr<PackedWeight> MakePacked(const at::Tensor& weight, const at::Tensor& bias);

  // Throws Error if anything was missing, wrongly shaped, not floating, or left over, listing up to
  // 50 names of each kind, sorted.
  void Finish() const;

  // What was taken.
  const TensorMap& taken() const { return taken_; }
  const ShapeMap& shapes() const { return shapes_; }
  const PackedWeights& packed_weights() const { return packed_; }

 private:
  const TensorMap* source_ = nullptr;
  std::string what_;
  LoadOptions options_;
  TensorMap taken_;
  ShapeMap shapes_;
  PackedWeights packed_;
  std::vector<std::string> missing_;
  std::vector<std::string> wrong_;
};

// Copies values into parameters of the same names and shapes, in place and without gradient.
// Throws Error, before anything is written, naming what is missing, extra or wrongly shaped.
void CopyParameters(const TensorMap& from, const TensorMap& to, const std::string& what);

}  // namespace d2g::model
