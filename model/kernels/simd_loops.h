// The inner loops of cpu_kernels.h over plain memory. They do not see LibTorch, so that they are
// compiled with their own flags, once for each instruction set.
#pragma once

#include <cstdint>

namespace d2g::model {

// out[i] = x[i] * gelu(x[width + i]).
void GegluRow(const float* x, float* out, int64_t width);

}  // namespace d2g::model
