#include "worker/simulate/device.h"

#include "absl/strings/str_cat.h"
#include "worker/common/torch_status.h"

namespace d2g::simulate {

absl::StatusOr<at::Device> ParseDevice(const std::string& name) {
  const bool has_gpu = at::hasCUDA();
  if (name == "auto") return has_gpu ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU);
  const auto parsed = CatchTorch([&] { return at::Device(name); });
  if (!parsed.ok() || (!parsed->is_cpu() && !parsed->is_cuda())) {
    return absl::InvalidArgumentError(
        absl::StrCat("device: \"", name, "\" is none of cpu, cuda, cuda:N and auto"));
  }
  if (parsed->is_cpu()) return *parsed;
  const at::DeviceIndex gpu = parsed->has_index() ? parsed->index() : at::DeviceIndex{0};
  const int64_t gpus = has_gpu ? at::detail::getCUDAHooks().deviceCount() : 0;
  if (gpu >= gpus) {
    return absl::InvalidArgumentError(
        absl::StrCat("device: ", name, " is not here; this machine has ", gpus, " usable GPUs"));
  }
  return at::Device(at::kCUDA, gpu);
}

}  // namespace d2g::simulate
