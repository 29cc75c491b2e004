// The inner loops of cpu_kernels.h over plain memory. They do not see LibTorch, so that they are
// compiled with their own flags, once for each instruction set.
#pragma once

#include <cstdint>

namespace d2g::model {

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
