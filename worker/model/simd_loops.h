// The inner loops of cpu_kernels.h over plain memory. They do not see LibTorch, so that they are
// compiled with their own flags, once for each instruction set.
#pragma once

#include <cstdint>

namespace d2g::model {

// One sample: `groups` groups of `channels` channels of `area` values.
struct NormShape {
  int64_t groups, channels, area;
};

// Group norm of one sample, then silu if asked for. shift has one value a channel, or is null.
void GroupNormSample(const float* x, float* out, NormShape shape, const float* weight,
                     const float* bias, const float* shift, float eps, bool silu);

// out[i] = x[i] * gelu(x[width + i]).
void GegluRow(const float* x, float* out, int64_t width);

// Strides between rows of one head.
struct AttentionShape {
  int64_t queries, keys, width;
  int64_t q_stride, k_stride, v_stride, out_stride;
};

// Floats of scratch memory that AttendHead needs.
int64_t AttentionWork(int64_t keys, int64_t width);

// One head of attention: softmax(scale q k^T) v.
void AttendHead(const float* q, const float* k, const float* v, float* out, AttentionShape shape,
                float scale, float* work);

}  // namespace d2g::model
