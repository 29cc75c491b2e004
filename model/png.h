// Pictures to PNG files.
#pragma once

#include <string>

#include <ATen/ATen.h>

namespace d2g::model {

// Writes one picture, uint8 [H, W, channels] with 1 (grey) or 3 (RGB) channels, atomically. Same
// pixels give the same bytes. Throws Error naming the path for a bad shape or a failed write.
void WritePng(const std::string& path, const at::Tensor& picture);

// Arranges pictures uint8 [B, H, W, channels] row by row in a grid of `columns` (at least 1) with
// `gap` pixels of white between them and nothing outside: a single picture stays as it is. Returns
// uint8 [H', W', channels].
at::Tensor MakeGrid(const at::Tensor& pictures, int64_t columns, int64_t gap = 2);

}  // namespace d2g::model
