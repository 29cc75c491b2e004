#include "worker/model/network/parameters.h"

#include <sys/mman.h>

#include <algorithm>
#include <memory>
#include <sstream>
#include <utility>

#include "worker/model/files/error.h"

namespace d2g::model {

namespace {

constexpr size_t kNamesShown = 50;

std::string Listed(std::vector<std::string> names) {
  std::sort(names.begin(), names.end());
  std::ostringstream out;
  for (size_t i = 0; i < names.size() && i < kNamesShown; ++i) {
    out << (i ? ", " : "") << Printable(names[i]);
  }
  if (names.size() > kNamesShown) out << " and " << names.size() - kNamesShown << " more";
  return out.str();
}

std::string ShapeText(at::IntArrayRef shape) {
  std::ostringstream out;
  out << shape;
  return out.str();
}

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

void FailIfAny(const std::string& what, const std::vector<std::string>& missing,
               const std::vector<std::string>& wrong, const std::vector<std::string>& extra) {
  if (missing.empty() && wrong.empty() && extra.empty()) return;
  std::ostringstream message;
  message << what << ": parameters do not fit the config:";
  const char* separator = " ";
  auto add = [&](const char* kind, const std::vector<std::string>& names) {
    if (names.empty()) return;
    message << separator << names.size() << " " << kind << " (" << Listed(names) << ")";
    separator = "; ";
  };
  add("missing", missing);
  add("wrong", wrong);
  add("unexpected", extra);
  throw Error(message.str());
}

}  // namespace

ParameterReader::ParameterReader(const TensorMap& source, std::string what, LoadOptions options)
    : source_(&source), what_(std::move(what)), options_(std::move(options)) {}

at::Tensor ParameterReader::Take(const std::string& name, const std::vector<int64_t>& shape) {
  shapes_[name] = shape;
  if (source_ == nullptr) return {};
  const auto it = source_->find(name);
  if (it == source_->end()) {
    missing_.push_back(name);
    return {};
  }
  const at::Tensor& tensor = it->second;
  if (tensor.sizes() != at::IntArrayRef(shape)) {
    wrong_.push_back(name + " is " + ShapeText(tensor.sizes()) + ", not " + ShapeText(shape));
    return {};
  }
  if (!tensor.is_floating_point()) {
    wrong_.push_back(name + " is " + c10::toString(tensor.scalar_type()) + ", not floating point");
    return {};
  }
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

std::shared_ptr<PackedWeight> ParameterReader::MakePacked(const at::Tensor& weight,
                                                          const at::Tensor& bias) {
  if (source_ == nullptr) return nullptr;
  packed_.push_back(std::make_shared<PackedWeight>(weight, bias));
  if (options_.pack) packed_.back()->Pack(/*keep=*/!options_.only_packed);
  return packed_.back();
}

void ParameterReader::Finish() const {
  if (source_ == nullptr) return;
  std::vector<std::string> extra;
  for (const auto& [name, tensor] : *source_) {
    if (!shapes_.contains(name)) extra.push_back(name);
  }
  FailIfAny(what_, missing_, wrong_, extra);
}

void CopyParameters(const TensorMap& from, const TensorMap& to, const std::string& what) {
  std::vector<std::string> missing, wrong, extra;
  for (const auto& [name, target] : to) {
    const auto it = from.find(name);
    if (it == from.end()) {
      missing.push_back(name);
    } else if (it->second.sizes() != target.sizes()) {
      wrong.push_back(name + " is " + ShapeText(it->second.sizes()) + ", not " +
                      ShapeText(target.sizes()));
    }
  }
  for (const auto& [name, tensor] : from) {
    if (!to.contains(name)) extra.push_back(name);
  }
  FailIfAny(what, missing, wrong, extra);
  const at::NoGradGuard no_grad;
  for (const auto& [name, target] : to) target.copy_(from.at(name));
}

}  // namespace d2g::model
