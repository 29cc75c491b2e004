// Names and shapes of a network's parameters, as its config asks for them.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace d2g::model {

using ShapeMap = std::map<std::string, std::vector<int64_t>>;

// Collects them layer by layer.
class ParameterList {
 public:
  void Add(const std::string& name, const std::vector<int64_t>& shape) { shapes_[name] = shape; }
  // `name`.weight [out, in] and `name`.bias [out].
  void Linear(const std::string& name, int64_t in, int64_t out, bool has_bias = true) {
    Add(name + ".weight", {out, in});
    if (has_bias) Add(name + ".bias", {out});
  }
  // `name`.weight [out, in, kernel, kernel] and `name`.bias [out].
  void Conv(const std::string& name, int64_t in, int64_t out, int64_t kernel,
            bool has_bias = true) {
    Add(name + ".weight", {out, in, kernel, kernel});
    if (has_bias) Add(name + ".bias", {out});
  }
  // `name`.weight and `name`.bias, [width] each.
  void Norm(const std::string& name, int64_t width) {
    Add(name + ".weight", {width});
    Add(name + ".bias", {width});
  }
  // A ResnetBlock2D; time_width 0: it reads no time.
  void Resnet(const std::string& name, int64_t in, int64_t out, int64_t time_width = 0,
              bool scale_shift = false);

  const ShapeMap& shapes() const { return shapes_; }

 private:
  ShapeMap shapes_;
};

}  // namespace d2g::model
