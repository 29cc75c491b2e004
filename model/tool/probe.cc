// d2g-model probe: what LibTorch can use on this machine, as one JSON object for d2g doctor.
#include <iostream>
#include <string>

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/core/grad_mode.h>
#include <torch/version.h>

#ifdef D2G_CUDA
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <cuda.h>
#include <torch/csrc/cuda/nccl.h>
#endif

#include <nlohmann/json.hpp>

#include "model/tool/commands.h"

namespace d2g::model {

namespace {

using nlohmann::json;

#ifdef D2G_CUDA

// CUDA's and NCCL's way to write a version.
std::string CudaVersion(int number) {
  return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
}

// Compares a convolution and a product on the device with the CPU's. Returns what is wrong.
std::string Trouble(int index) {
  try {
    const at::NoGradGuard no_grad;
    at::manual_seed(0);
    const at::Tensor x = at::randn({1, 8, 16, 16}), w = at::randn({8, 8, 3, 3});
    const at::Device device(at::kCUDA, static_cast<c10::DeviceIndex>(index));
    const auto run = [](const at::Tensor& input, const at::Tensor& weight) {
      return at::matmul(at::conv2d(input, weight), at::conv2d(input, weight).transpose(2, 3));
    };
    const at::Tensor expected = run(x, w), found = run(x.to(device), w.to(device)).cpu();
    const double difference =
        ((found - expected).abs().max() / expected.abs().max()).item<double>();
    if (!(difference < 1e-2)) {
      return "a trial computation differs from the CPU's by " + std::to_string(difference);
    }
    return "";
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  } catch (const std::exception& error) {
    return error.what();
  }
}

void AddDevices(json* facts) {
  (*facts)["cuda_runtime"] = CudaVersion(CUDA_VERSION);
  const uint64_t nccl = torch::cuda::nccl::version();
  (*facts)["nccl"] = std::to_string(nccl >> 32) + "." + std::to_string(nccl >> 16 & 0xffff) + "." +
                     std::to_string(nccl & 0xffff);
  try {
    const int count = c10::cuda::device_count_ensure_non_zero();
    for (int i = 0; i < count; ++i) {
      const cudaDeviceProp* properties = at::cuda::getDeviceProperties(i);
      const std::string trouble = Trouble(i);
      c10::cuda::CUDACachingAllocator::emptyCache();
      const auto [free, total] =
          c10::cuda::CUDACachingAllocator::get()->getMemoryInfo(static_cast<c10::DeviceIndex>(i));
      (*facts)["devices"].push_back({{"index", i},
                                     {"name", properties->name},
                                     {"capability", std::to_string(properties->major) + "." +
                                                        std::to_string(properties->minor)},
                                     {"total_bytes", total},
                                     {"free_bytes", free},
                                     {"trouble", trouble}});
    }
  } catch (const c10::Error& error) {
    (*facts)["trouble"] = error.what_without_backtrace();
  }
}

#endif

void Probe() {
  json facts = {{"libtorch", TORCH_VERSION},
                {"cpu_capability", at::get_cpu_capability()},
                {"threads", at::get_num_threads()},
                {"onednn", at::hasMKLDNN()},
                {"built_with_cuda", false},
                {"cuda_runtime", ""},
                {"nccl", ""},
                {"trouble", ""},
                {"devices", json::array()}};
#ifdef D2G_CUDA
  facts["built_with_cuda"] = true;
  AddDevices(&facts);
#endif
  std::cout << facts.dump() << "\n";
}

}  // namespace

void AddProbe(CLI::App& app, Action* action) {
  CLI::App* command = app.add_subcommand("probe", "What LibTorch can use on this machine, as JSON");
  command->callback([action] { *action = [] { Probe(); }; });
}

}  // namespace d2g::model
