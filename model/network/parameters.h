// Hands a network its parameters by name, and sees to it that it takes all that its config lists.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/config/parameter_match.h"
#include "model/kernels/operators.h"
#include "model/network/load_options.h"
#include "model/weights/safetensors.h"

namespace d2g::model {

// What a file would say of the tensors.
StoredTensors StoredTensorsOf(const TensorMap& tensors);

// The parameters that `wanted` lists, by their names of today and in their shapes: handles of
// `stored`. Throws Error like MatchParameters.
TensorMap MatchedParameters(const TensorMap& stored, const ShapeMap& wanted,
                            const ParameterRules& rules, const std::string& what);

// Used once, while a network is built from matched parameters: the network takes every parameter
// that it needs, then calls Finish. Not thread-safe.
class ParameterReader {
 public:
  // `what` names the component in errors. `source` must outlive the reader.
  ParameterReader(const TensorMap& source, std::string what, LoadOptions options);

  // A copy of the tensor in `options`, without gradient, or with share_file the tensor itself where
  // it fits. The pages of a mapped tensor that was copied are released. If it is missing or does
  // not fit, the result is undefined and Finish will throw.
  at::Tensor Take(const std::string& name, const std::vector<int64_t>& shape);

  // `name`.weight of that shape and `name`.bias, of as many values as the weight's first dimension
  // has, with the form of both that inference uses: packed at once if the options say so, else
  // empty until packed_weights() are packed.
  kernels::LayerWeight TakeLayer(const std::string& name, const std::vector<int64_t>& shape,
                                 bool has_bias = true);

  // Throws Error like RequireSameParameters where the source is not what was taken: a network and
  // its list of parameters (config/) never differ unnoticed.
  void Finish() const;

  // What was taken.
  const TensorMap& taken() const { return taken_; }
  const PackedWeights& packed_weights() const { return packed_; }

 private:
  const TensorMap& source_;
  std::string what_;
  LoadOptions options_;
  TensorMap taken_;
  ShapeMap shapes_;
  PackedWeights packed_;
};

// Copies values into parameters of the same names and shapes, in place and without gradient.
// Throws Error, before anything is written, naming what is missing, extra or wrongly shaped.
void CopyParameters(const TensorMap& from, const TensorMap& to, const std::string& what);

}  // namespace d2g::model
