// How pictures lie in memory.
#pragma once

#include <ATen/ATen.h>

namespace d2g::model {

// A picture whose channels lie last in memory and not, for its shape, also in the usual order.
inline bool IsChannelsLast(const at::Tensor& x) {
  return x.dim() == 4 && !x.is_contiguous() && x.is_contiguous(at::MemoryFormat::ChannelsLast);
}

}  // namespace d2g::model
