#include "worker/distil/flat_parameters.h"

#include <ATen/ops/zeros.h>

#include "model/files/error.h"

namespace d2g::distil {
namespace {

constexpr int64_t kAlignment = 16;  // elements

}  // namespace

FlatParameters::FlatParameters(const model::TensorMap& parameters) : tensors_(parameters) {
  if (parameters.empty()) throw model::Error("a network without parameters cannot be trained");
  const at::Device device = parameters.begin()->second.device();
  int64_t offset = 0;
  for (const auto& [name, tensor] : parameters) {
    if (tensor.scalar_type() != at::kFloat || tensor.device() != device) {
      throw model::Error("parameter " + name + " is not fp32 on " + device.str());
    }
    parts_.push_back({name, offset, tensor.sizes().vec(), tensor.numel()});
    offset += (tensor.numel() + kAlignment - 1) / kAlignment * kAlignment;
  }
  const auto options = at::TensorOptions().dtype(at::kFloat).device(device);
  values_ = at::zeros({offset}, options);
  gradients_ = at::zeros({offset}, options);
  Flatten(parameters, values_, "parameters");
  const model::TensorMap values = Unflatten(values_), gradients = Unflatten(gradients_);
  for (auto& [name, tensor] : tensors_) {
    // The handle keeps its identity, so that the network computes with the flat buffer.
    tensor.set_data(values.at(name));
    tensor.requires_grad_(true);
    tensor.mutable_grad() = gradients.at(name);
  }
}

void FlatParameters::ZeroGradients() { gradients_.zero_(); }

void FlatParameters::SetRequiresGrad(bool requires_grad) {
  for (auto& [name, tensor] : tensors_) tensor.requires_grad_(requires_grad);
}

std::pair<int64_t, int64_t> FlatParameters::StretchOf(const std::string& prefix) const {
  int64_t begin = -1, end = size();
  for (const Part& part : parts_) {
    if (part.name.starts_with(prefix)) {
      if (begin < 0) begin = part.offset;
    } else if (begin >= 0) {
      end = part.offset;
      break;
    }
  }
  if (begin < 0) model::Fail("no parameter's name starts with ", prefix);
  return {begin, end - begin};
}

model::TensorMap FlatParameters::Unflatten(const at::Tensor& flat) const {
  model::TensorMap named;
  for (const Part& part : parts_) {
    named.emplace(part.name, flat.narrow(0, part.offset, part.count).view(part.shape));
  }
  return named;
}

void FlatParameters::Flatten(const model::TensorMap& named, const at::Tensor& flat,
                             const std::string& what) const {
  if (named.size() != parts_.size()) {
    for (const auto& [name, tensor] : named) {
      bool known = false;
      for (const Part& part : parts_) known = known || part.name == name;
      if (!known) throw model::Error(what + " holds an unknown tensor " + name);
    }
  }
  for (const Part& part : parts_) {
    const auto found = named.find(part.name);
    if (found == named.end()) throw model::Error(what + " lacks the tensor " + part.name);
    if (found->second.sizes() != at::IntArrayRef(part.shape)) {
      model::Fail(what, ": tensor ", part.name, " has shape ", found->second.sizes(), ", expected ",
                  at::IntArrayRef(part.shape));
    }
    flat.narrow(0, part.offset, part.count).copy_(found->second.detach().reshape({-1}));
  }
}

}  // namespace d2g::distil
