// Our CUDA kernels against plain loops. LibTorch takes no part.
#include <gtest/gtest.h>

#ifdef D2G_NVCC
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cmath>
#include <random>
#include <vector>

#include "model/kernels/cuda/group_norm_nhwc.h"
#endif

namespace d2g::model {
namespace {

#ifdef D2G_NVCC

struct Shape {
  int64_t batch, points, channels, groups;
};

// The same values on both sides: rounded to T, then kept in float here and in T on the device.
template <typename T>
class Values {
 public:
  Values(int64_t count, float mean, float deviation, uint32_t seed) : host(count) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(mean, deviation);
    std::vector<T> rounded(host.size());
    for (size_t i = 0; i < host.size(); ++i) {
      rounded[i] = static_cast<T>(normal(random));
      host[i] = static_cast<float>(rounded[i]);
    }
    EXPECT_EQ(cudaMalloc(&device, host.size() * sizeof(T)), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(device, rounded.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice),
              cudaSuccess);
  }
  Values(const Values&) = delete;
  Values& operator=(const Values&) = delete;
  ~Values() { cudaFree(device); }

  std::vector<float> FromDevice() const {
    std::vector<T> rounded(host.size());
    EXPECT_EQ(cudaMemcpy(rounded.data(), device, host.size() * sizeof(T), cudaMemcpyDeviceToHost),
              cudaSuccess);
    std::vector<float> values(host.size());
    for (size_t i = 0; i < host.size(); ++i) values[i] = static_cast<float>(rounded[i]);
    return values;
  }

  std::vector<float> host;
  void* device = nullptr;
};

std::vector<double> Reference(const Shape& s, const std::vector<float>& x,
                              const std::vector<float>& weight, const std::vector<float>& bias,
                              const std::vector<float>* shift, double eps, bool silu) {
  std::vector<double> out(x.size());
  const int64_t per_group = s.channels / s.groups;
  for (int64_t n = 0; n < s.batch; ++n) {
    auto value = [&](int64_t point, int64_t c) {
      const double moved = shift == nullptr ? 0 : (*shift)[n * s.channels + c];
      return x[(n * s.points + point) * s.channels + c] + moved;
    };
    for (int64_t group = 0; group < s.groups; ++group) {
      const int64_t first = group * per_group;
      const double count = static_cast<double>(s.points * per_group);
      double mean = 0, variance = 0;
      for (int64_t p = 0; p < s.points; ++p) {
        for (int64_t c = first; c < first + per_group; ++c) mean += value(p, c) / count;
      }
      for (int64_t p = 0; p < s.points; ++p) {
        for (int64_t c = first; c < first + per_group; ++c) {
          variance += (value(p, c) - mean) * (value(p, c) - mean) / count;
        }
      }
      for (int64_t p = 0; p < s.points; ++p) {
        for (int64_t c = first; c < first + per_group; ++c) {
          double y = (value(p, c) - mean) / std::sqrt(variance + eps) * weight[c] + bias[c];
          if (silu) y /= 1 + std::exp(-y);
          out[(n * s.points + p) * s.channels + c] = y;
        }
      }
    }
  }
  return out;
}

template <typename T>
void CheckGroupNorm(cuda::Scalar scalar, double tolerance) {
  for (const Shape& s : std::vector<Shape>{{1, 1, 8, 4},
                                           {2, 64, 48, 8},
                                           {3, 50, 30, 5},
                                           {2, 4096, 320, 32},
                                           {1, 77, 2560, 32},
                                           {1, 9, 6144, 6144}}) {
    for (const bool shifted : {false, true}) {
      SCOPED_TRACE(testing::Message() << s.points << " points of " << s.channels << " channels");
      const int64_t count = s.batch * s.points * s.channels;
      const Values<T> x(count, 5, 2, 1), out(count, 0, 1, 2), weight(s.channels, 1, 0.5F, 3),
          bias(s.channels, 0, 1, 4), shift(s.batch * s.channels, 0, 1, 5);
      float* partial = nullptr;
      ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&partial),
                           sizeof(float) * cuda::PartialFloats(s.batch, s.points, s.groups)),
                cudaSuccess);
      const cuda::GroupNormNhwc norm{
          x.device,   out.device, weight.device, bias.device, shifted ? shift.device : nullptr,
          s.channels, partial,    s.batch,       s.points,    s.channels,
          s.groups,   1e-5F,      shifted,       scalar};
      ASSERT_STREQ(cuda::RunGroupNormNhwc(norm, nullptr), nullptr);
      ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
      const std::vector<double> expected = Reference(
          s, x.host, weight.host, bias.host, shifted ? &shift.host : nullptr, 1e-5, shifted);
      const std::vector<float> found = out.FromDevice();
      double worst = 0;
      for (size_t i = 0; i < found.size(); ++i) {
        worst = std::max(worst, std::abs(found[i] - expected[i]) / (1 + std::abs(expected[i])));
      }
      EXPECT_LE(worst, tolerance);
      cudaFree(partial);
    }
  }
}

TEST(CudaKernelsTest, GroupNorm) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    GTEST_SKIP() << "the CUDA kernels need a GPU";
  }
  CheckGroupNorm<float>(cuda::Scalar::kFloat, 2e-5);
  CheckGroupNorm<__half>(cuda::Scalar::kHalf, 2e-3);
  CheckGroupNorm<__nv_bfloat16>(cuda::Scalar::kBfloat16, 1e-2);
}

TEST(CudaKernelsTest, RefusesWhatDoesNotFit) {
  EXPECT_TRUE(cuda::TakesChannels(320, 32));
  EXPECT_FALSE(cuda::TakesChannels(320, 33));
  EXPECT_FALSE(cuda::TakesChannels(8192, 32));
  cuda::GroupNormNhwc norm{};
  norm.batch = norm.points = 1;
  norm.channels = 8192;
  norm.groups = 32;
  EXPECT_STRNE(cuda::RunGroupNormNhwc(norm, nullptr), nullptr);
}

#else

TEST(CudaKernelsTest, GroupNorm) {
  GTEST_SKIP() << "there was no CUDA compiler when this was built";
}

#endif

}  // namespace
}  // namespace d2g::model
