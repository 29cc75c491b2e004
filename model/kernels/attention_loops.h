// Attention of one head over plain memory; see matrix_loops.h for how it is compiled.
#pragma once

#include <cstdint>

#include "model/kernels/instructions.h"

namespace d2g::model {

// Strides between rows of one head.
struct AttentionShape {
  int64_t queries, keys, width;
  int64_t q_stride, k_stride, v_stride, out_stride;
  const float* mask;  // [queries, keys], added to the scores; may be -infinity; null for none
};

// Floats of scratch memory that AttendHead needs.
int64_t AttentionWork(const AttentionShape& shape);

// softmax(scale q k^T) v of one head, for queries [first, last). The scores are never in memory as
// a whole: blocks of keys are visited one after the other, and sums made so far are scaled when a
// larger score comes up. Source: Milakov and Gimelshein, arXiv 1805.02867.
void AttendHead(const float* q, const float* k, const float* v, float* out,
                const AttentionShape& shape, float scale, int64_t first, int64_t last, float* work,
                Instructions instructions = MachineInstructions());

}  // namespace d2g::model
