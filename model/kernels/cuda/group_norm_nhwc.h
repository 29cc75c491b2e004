// Group norm of pictures whose channels lie last in memory, with what comes before and after it in
// a resnet block, in two passes over memory where LibTorch makes a copy and four.
//
// Free of LibTorch's and CUDA's headers, so that both sides compile quickly.
#pragma once

#include <cstdint>

namespace d2g::model::cuda {

enum class Scalar { kFloat, kHalf, kBfloat16 };

// out = silu(norm(x + shift) * weight + bias), without the silu unless asked for. All pointers are
// to the device's memory and to values of `scalar`; sums are made in fp32.
struct GroupNormNhwc {
  const void* x;  // [batch, points, channels]
  void* out;      // likewise; not x
  const void* weight;
  const void* bias;
  const void* shift;     // [channels] for each sample, or null
  int64_t shift_stride;  // from one sample to the next; 0: all have the same
  float* partial;        // PartialFloats of scratch memory
  int64_t batch, points, channels, groups;
  float eps;
  bool silu;
  Scalar scalar;
};

// Whether the kernel takes so many channels: groups divide them, and they fit into shared memory.
bool TakesChannels(int64_t channels, int64_t groups);

int64_t PartialFloats(int64_t batch, int64_t points, int64_t groups);

// Starts it on a stream (cudaStream_t). Returns null, or what CUDA says went wrong with the launch.
const char* RunGroupNormNhwc(const GroupNormNhwc& norm, void* stream);

}  // namespace d2g::model::cuda
