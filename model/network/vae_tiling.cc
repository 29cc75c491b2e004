#include "model/network/vae_tiling.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace d2g::model {

namespace {

// The part of x that starts at (top, left) and is at most `size` wide and high.
at::Tensor TileAt(const at::Tensor& x, int64_t top, int64_t left, int64_t size) {
  return x.slice(2, top, top + size).slice(3, left, left + size);
}

// Fades the first rows (dim 2) or columns (dim 3) of `tile` in from the last ones of `before`.
void Blend(const at::Tensor& before, const at::Tensor& tile, int64_t dim, int64_t extent) {
  extent = std::min({before.size(dim), tile.size(dim), extent});
  if (extent < 1) return;
  const at::Tensor share = at::arange(extent, at::device(tile.device()).dtype(at::kDouble)) /
                           static_cast<double>(extent);
  const std::vector<int64_t> shape =
      dim == 2 ? std::vector<int64_t>{extent, 1} : std::vector<int64_t>{extent};
  const auto as_weight = [&](const at::Tensor& weight) {
    return weight.view(shape).to(tile.options());
  };
  const at::Tensor first = tile.narrow(dim, 0, extent);
  const at::Tensor last = before.narrow(dim, before.size(dim) - extent, extent);
  first.copy_(last * as_weight(1 - share) + first * as_weight(share));
}

}  // namespace

at::Tensor RunBlendedTiles(const at::Tensor& x, const BlendedTiles& tiles,
                           const TileFunction& run) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> above, bands;
  for (int64_t top = 0; top < x.size(2); top += tiles.stride) {
    std::vector<at::Tensor> row, kept;
    for (int64_t left = 0; left < x.size(3); left += tiles.stride) {
      const at::Tensor tile = run(TileAt(x, top, left, tiles.size));
      if (!above.empty()) Blend(above[row.size()], tile, 2, tiles.blend);
      if (!row.empty()) Blend(row.back(), tile, 3, tiles.blend);
      row.push_back(tile);
      kept.push_back(TileAt(tile, 0, 0, tiles.keep));
    }
    bands.push_back(at::cat(kept, 3));
    above = std::move(row);
  }
  return at::cat(bands, 2);
}

at::Tensor RunOverlaidTiles(const at::Tensor& x, const OverlaidTiles& tiles, int64_t channels,
                            int64_t height, int64_t width, const TileFunction& run) {
  const at::NoGradGuard no_grad;
  const at::Tensor fade =
      (at::arange(tiles.out_size, at::kFloat) / static_cast<double>(tiles.blend - 1))
          .clamp(0, 1)
          .to(x.device());
  const at::Tensor whole = at::ones_like(fade);
  at::Tensor out = at::zeros({x.size(0), channels, height, width}, x.options());
  for (int64_t i = 0; i * tiles.stride < x.size(2); ++i) {
    for (int64_t j = 0; j * tiles.stride < x.size(3); ++j) {
      const at::Tensor tile = run(TileAt(x, i * tiles.stride, j * tiles.stride, tiles.size));
      const at::Tensor place =
          TileAt(out, i * tiles.out_stride, j * tiles.out_stride, tiles.out_size);
      const at::Tensor down = (i == 0 ? whole : fade).narrow(0, 0, tile.size(2));
      const at::Tensor across = (j == 0 ? whole : fade).narrow(0, 0, tile.size(3));
      const at::Tensor mask = down.unsqueeze(1) * across;
      place.copy_(mask * tile + (1 - mask) * place);
    }
  }
  return out;
}

}  // namespace d2g::model
