#include "model/kernels/cuda/group_norm_nhwc.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <type_traits>

namespace d2g::model::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxChannels = 6144;  // two floats of each fill 48 KiB of shared memory
constexpr int64_t kPointsPerPart = 8;
// Blocks that together fill a large GPU, and what one sample is cut into at most: every block of
// the second pass adds up what the parts found.
constexpr int64_t kWantedBlocks = 512;
constexpr int64_t kMinMaxParts = 64, kMaxMaxParts = 256;
constexpr int64_t kMaxBatch = 65'535;  // of a grid's second dimension
constexpr int kVectorBytes = 16;

int64_t Parts(int64_t batch, int64_t points) {
  const int64_t most =
      std::clamp<int64_t>(kWantedBlocks / std::max<int64_t>(batch, 1), kMinMaxParts, kMaxMaxParts);
  return std::clamp<int64_t>(points / kPointsPerPart, 1, most);
}

template <typename T>
struct Arguments {
  const T* x;
  T* out;
  const T* weight;
  const T* bias;
  const T* shift;
  int64_t shift_stride;
  float* partial;  // [batch, parts, groups, 2]
  int64_t points, part;
  int channels, groups;
  float eps;
  bool silu;
};

// kWidth values that are read and written at once.
template <typename T, int kWidth>
struct alignas(sizeof(T) * kWidth) Vector {
  T values[kWidth];
};

template <typename T>
__device__ float Shift(const Arguments<T>& a, int64_t sample, int channel) {
  return a.shift == nullptr ? 0.0f : static_cast<float>(a.shift[sample * a.shift_stride + channel]);
}

// In half precision with the quick instructions, whose error is far below its rounding.
template <typename T>
__device__ float Sigmoid(float x) {
  if constexpr (std::is_same_v<T, float>) return 1.0f / (1.0f + expf(-x));
  return __fdividef(1.0f, 1.0f + __expf(-x));
}

// What sums of a group are made relative to, so that a large mean costs no precision: its first
// value.
template <typename T>
__device__ float Pivot(const Arguments<T>& a, int64_t sample, int group) {
  const int channel = group * (a.channels / a.groups);
  return static_cast<float>(a.x[sample * a.points * a.channels + channel]) +
         Shift(a, sample, channel);
}

// Sums, and sums of squares, of each group over one part of the points of one sample.
template <typename T, int kWidth>
__global__ void SumPart(const Arguments<T> a) {
  extern __shared__ float sums[];  // [blockDim.y, channels, 2]
  const int64_t sample = blockIdx.y;
  const int per_group = a.channels / a.groups;
  const int64_t first = blockIdx.x * a.part, last = min(first + a.part, a.points);
  const T* x = a.x + sample * a.points * a.channels;
  for (int v = threadIdx.x; v < a.channels / kWidth; v += blockDim.x) {
    float offset[kWidth], plain[kWidth] = {}, square[kWidth] = {};
    for (int i = 0; i < kWidth; ++i) {
      const int channel = v * kWidth + i;
      offset[i] = Shift(a, sample, channel) - Pivot(a, sample, channel / per_group);
    }
#pragma unroll 4
    for (int64_t point = first + threadIdx.y; point < last; point += blockDim.y) {
      const auto values =
          *reinterpret_cast<const Vector<T, kWidth>*>(x + point * a.channels + v * kWidth);
      for (int i = 0; i < kWidth; ++i) {
        const float value = static_cast<float>(values.values[i]) + offset[i];
        plain[i] += value;
        square[i] += value * value;
      }
    }
    for (int i = 0; i < kWidth; ++i) {
      float* to = sums + 2 * (threadIdx.y * a.channels + v * kWidth + i);
      to[0] = plain[i];
      to[1] = square[i];
    }
  }
  __syncthreads();
  // Always added in the same order, so that equal inputs give equal results.
  for (int group = threadIdx.y * blockDim.x + threadIdx.x; group < a.groups;
       group += blockDim.x * blockDim.y) {
    float plain = 0, square = 0;
    for (int row = 0; row < blockDim.y; ++row) {
      for (int i = 0; i < per_group; ++i) {
        const float* from = sums + 2 * (row * a.channels + group * per_group + i);
        plain += from[0];
        square += from[1];
      }
    }
    float* to = a.partial + 2 * ((sample * gridDim.x + blockIdx.x) * a.groups + group);
    to[0] = plain;
    to[1] = square;
  }
}

template <typename T, int kWidth>
__global__ void ScalePart(const Arguments<T> a) {
  extern __shared__ float moments[];  // [groups, 2]: mean and inverse deviation
  const int64_t sample = blockIdx.y;
  const int per_group = a.channels / a.groups;
  for (int group = threadIdx.y * blockDim.x + threadIdx.x; group < a.groups;
       group += blockDim.x * blockDim.y) {
    float plain = 0, square = 0;
#pragma unroll 4
    for (int part = 0; part < gridDim.x; ++part) {
      const float* from = a.partial + 2 * ((sample * gridDim.x + part) * a.groups + group);
      plain += from[0];
      square += from[1];
    }
    const float count = static_cast<float>(a.points * per_group), apart = plain / count;
    moments[2 * group] = Pivot(a, sample, group) + apart;
    moments[2 * group + 1] = rsqrtf(fmaxf(square / count - apart * apart, 0.0f) + a.eps);
  }
  __syncthreads();
  const int64_t first = blockIdx.x * a.part, last = min(first + a.part, a.points);
  const int64_t begin = sample * a.points * a.channels;
  for (int v = threadIdx.x; v < a.channels / kWidth; v += blockDim.x) {
    float scale[kWidth], offset[kWidth];
    for (int i = 0; i < kWidth; ++i) {
      const int channel = v * kWidth + i, group = channel / per_group;
      scale[i] = moments[2 * group + 1] * static_cast<float>(a.weight[channel]);
      offset[i] = static_cast<float>(a.bias[channel]) +
                  (Shift(a, sample, channel) - moments[2 * group]) * scale[i];
    }
#pragma unroll 4
    for (int64_t point = first + threadIdx.y; point < last; point += blockDim.y) {
      const int64_t at = begin + point * a.channels + v * kWidth;
      auto values = *reinterpret_cast<const Vector<T, kWidth>*>(a.x + at);
      for (int i = 0; i < kWidth; ++i) {
        float value = static_cast<float>(values.values[i]) * scale[i] + offset[i];
        if (a.silu) value *= Sigmoid<T>(value);
        values.values[i] = static_cast<T>(value);
      }
      *reinterpret_cast<Vector<T, kWidth>*>(a.out + at) = values;
    }
  }
}

template <typename T, int kWidth>
const char* Launch(const Arguments<T>& a, int64_t batch, cudaStream_t stream) {
  const int64_t vectors = a.channels / kWidth;
  const auto across = static_cast<unsigned>(std::min<int64_t>(vectors, kThreads));
  const dim3 block(across, std::max(1U, kThreads / across));
  const dim3 grid(static_cast<unsigned>((a.points + a.part - 1) / a.part),
                  static_cast<unsigned>(batch));
  const size_t sums = 2 * sizeof(float) * block.y * static_cast<size_t>(a.channels);
  SumPart<T, kWidth><<<grid, block, sums, stream>>>(a);
  const size_t moments = 2 * sizeof(float) * static_cast<size_t>(a.groups);
  ScalePart<T, kWidth><<<grid, block, moments, stream>>>(a);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

template <typename T>
const char* Run(const GroupNormNhwc& norm, cudaStream_t stream) {
  constexpr int kWidth = kVectorBytes / sizeof(T);
  const int64_t parts = Parts(norm.batch, norm.points);
  const Arguments<T> arguments{static_cast<const T*>(norm.x),
                               static_cast<T*>(norm.out),
                               static_cast<const T*>(norm.weight),
                               static_cast<const T*>(norm.bias),
                               static_cast<const T*>(norm.shift),
                               norm.shift_stride,
                               norm.partial,
                               norm.points,
                               (norm.points + parts - 1) / parts,
                               static_cast<int>(norm.channels),
                               static_cast<int>(norm.groups),
                               norm.eps,
                               norm.silu};
  const auto aligned = [](const void* pointer) {
    return reinterpret_cast<uintptr_t>(pointer) % kVectorBytes == 0;
  };
  if (norm.channels % kWidth == 0 && aligned(norm.x) && aligned(norm.out)) {
    return Launch<T, kWidth>(arguments, norm.batch, stream);
  }
  return Launch<T, 1>(arguments, norm.batch, stream);
}

}  // namespace

bool TakesChannels(int64_t channels, int64_t groups) {
  return groups > 0 && channels > 0 && channels % groups == 0 && channels <= kMaxChannels;
}

int64_t PartialFloats(int64_t batch, int64_t points, int64_t groups) {
  return 2 * batch * Parts(batch, points) * groups;
}

const char* RunGroupNormNhwc(const GroupNormNhwc& norm, void* stream) {
  if (norm.batch == 0 || norm.points == 0) return nullptr;
  if (norm.batch > kMaxBatch || !TakesChannels(norm.channels, norm.groups)) {
    return "group norm: more samples or channels than the kernel takes";
  }
  const auto on = static_cast<cudaStream_t>(stream);
  switch (norm.scalar) {
    case Scalar::kFloat:
      return Run<float>(norm, on);
    case Scalar::kHalf:
      return Run<__half>(norm, on);
    case Scalar::kBfloat16:
      return Run<__nv_bfloat16>(norm, on);
  }
  return "group norm: unknown scalar";
}

}  // namespace d2g::model::cuda
