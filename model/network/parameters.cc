#include "model/network/parameters.h"

#include <ATen/core/grad_mode.h>

#include <sys/mman.h>

#include <memory>
#include <optional>
#include <utility>

#include "model/config/stored_weights.h"
#include "model/files/error.h"

namespace d2g::model {

namespace {

// A block of memory that goes back to the system when its tensor goes, whatever the heap would do.
struct Block {
  void* data;
  size_t bytes;
};
void UnmapBlock(void* context) {
  const std::unique_ptr<Block> block(static_cast<Block*>(context));
  ::munmap(block->data, block->bytes);
}

// `tensor` in another dtype on the CPU, for a short while: the heap would keep the gaps that large
// copies leave, which adds up to a tenth of a network.
at::Tensor ShortLivedCopy(const at::Tensor& tensor, at::ScalarType dtype) {
  const size_t bytes = static_cast<size_t>(tensor.numel()) * c10::elementSize(dtype);
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return tensor.to(dtype);
  const c10::Storage storage(
      c10::Storage::use_byte_size_t(), bytes,
      c10::DataPtr(data, std::make_unique<Block>(Block{data, bytes}).release(), &UnmapBlock,
                   at::kCPU),
      /*allocator=*/nullptr, /*resizable=*/false);
  at::Tensor copy = at::empty({0}, at::TensorOptions().dtype(dtype));
  copy.set_(storage, 0, tensor.sizes());
  copy.copy_(tensor);
  return copy;
}

}  // namespace

StoredTensors StoredTensorsOf(const TensorMap& tensors) {
  StoredTensors stored;
  for (const auto& [name, tensor] : tensors) {
    const std::optional<SafetensorsDtype> dtype = SafetensorsDtypeOf(tensor.scalar_type());
    stored[name] = {tensor.sizes().vec(),
                    dtype ? DtypeWord(*dtype) : c10::toString(tensor.scalar_type()),
                    tensor.is_floating_point()};
  }
  return stored;
}

TensorMap MatchedParameters(const TensorMap& stored, const ShapeMap& wanted,
                            const ParameterRules& rules, const std::string& what) {
  const ParameterMatch match = MatchParameters(StoredTensorsOf(stored), wanted, rules, what);
  TensorMap parameters;
  for (const auto& [name, source] : match.stored) {
    const at::Tensor& tensor = stored.at(source);
    const bool flat = tensor.dim() == static_cast<int64_t>(wanted.at(name).size());
    parameters[name] = flat ? tensor : tensor.flatten(1);
  }
  return parameters;
}

ParameterReader::ParameterReader(const TensorMap& source, std::string what, LoadOptions options)
    : source_(source), what_(std::move(what)), options_(std::move(options)) {}

at::Tensor ParameterReader::Take(const std::string& name, const std::vector<int64_t>& shape) {
  shapes_[name] = shape;
  const auto it = source_.find(name);
  if (it == source_.end()) return {};
  const at::Tensor& tensor = it->second;
  if (tensor.sizes() != at::IntArrayRef(shape) || !tensor.is_floating_point()) return {};
  const bool fits = tensor.is_cpu() && options_.tensors.device().is_cpu() &&
                    tensor.scalar_type() == c10::typeMetaToScalarType(options_.tensors.dtype()) &&
                    tensor.is_contiguous();
  at::Tensor taken = tensor.detach();
  if (!fits || !options_.share_file || !IsMapped(tensor)) {
    // A weight that will be packed and given up; smaller ones are not worth a system call.
    constexpr int64_t kLarge = 1 << 18;
    taken = options_.only_packed && options_.tensors.device().is_cpu() && tensor.numel() >= kLarge
                ? ShortLivedCopy(taken, c10::typeMetaToScalarType(options_.tensors.dtype()))
                // To the device first, where converting is quick.
                : (tensor.device() == options_.tensors.device()
                       ? taken.to(options_.tensors, /*non_blocking=*/false, /*copy=*/true)
                       : taken
                             .to(options_.tensors.device(), taken.scalar_type(),
                                 /*non_blocking=*/false, /*copy=*/true)
                             .to(options_.tensors))
                      .contiguous();
    ReleasePages(tensor);
  }
  taken_[name] = taken;
  return taken;
}

kernels::LayerWeight ParameterReader::TakeLayer(const std::string& name,
                                                const std::vector<int64_t>& shape, bool has_bias) {
  kernels::LayerWeight layer;
  layer.weight = Take(name + ".weight", shape);
  if (has_bias) layer.bias = Take(name + ".bias", {shape.front()});
  if (!layer.weight.defined()) return layer;
  layer.packed = std::make_shared<PackedWeight>(layer.weight, layer.bias);
  packed_.push_back(layer.packed);
  if (options_.pack) layer.packed->Pack(/*keep=*/!options_.only_packed);
  return layer;
}

void ParameterReader::Finish() const {
  RequireSameParameters(StoredTensorsOf(source_), shapes_, what_);
}

void CopyParameters(const TensorMap& from, const TensorMap& to, const std::string& what) {
  ShapeMap wanted;
  for (const auto& [name, target] : to) wanted[name] = target.sizes().vec();
  RequireSameParameters(StoredTensorsOf(from), wanted, what);
  const at::NoGradGuard no_grad;
  for (const auto& [name, target] : to) target.copy_(from.at(name));
}

}  // namespace d2g::model
