#include "model/kernels/matrix_loops.h"

#include <vector>

#include "model/kernels/simd_lanes.h"

namespace d2g::model {

namespace {

// Rows of a patch are gathered, and weights are read, in blocks of so many: a tile of rows then
// stays in the first cache and a block of weights in the second.
constexpr int64_t kInnerBlock = 512;
constexpr int64_t kWeightBlockFloats = 96 * 1024;

// Weights are packed in blocks of so many of a column.
constexpr int64_t kPackedAtOnce = 153;

struct Panel {
  const float* weights;  // of the first row of the block
  int64_t width;         // floats from one row to the next
  int64_t column;        // of the first lane
  int64_t columns;       // that exist from there on
};

// One tile: kRows rows times kVectors vectors of columns, over `count` inner elements, which come
// on top of what is in p.out unless this is where the inner dimension begins.
template <typename V, int kRows, int kVectors>
[[gnu::always_inline]] inline void Tile(const float* a, int64_t a_stride, const Panel& panel,
                                        int64_t count, const Product& p, int64_t row, bool begins) {
  V sums[kRows][kVectors];
  TileSums(a, a_stride, panel.weights, panel.width, count, sums);
  for (int v = 0; v < kVectors; ++v) {
    const int64_t column = panel.column + v * kLanes<V>;
    const int64_t left = panel.columns - v * kLanes<V>;
    if (left <= 0) return;
    V bias = {};
    if (begins && p.bias != nullptr) bias = LoadSome<V>(p.bias + column, left);
    const float* base = begins ? p.added : p.out;
    const int64_t base_stride = begins ? p.added_stride : p.out_stride;
    for (int r = 0; r < kRows; ++r) {
      V sum = sums[r][v] + bias;
      if (base != nullptr) sum += LoadSome<V>(base + (row + r) * base_stride + column, left);
      StoreSome(p.out + (row + r) * p.out_stride + column, sum, left);
    }
  }
}

template <typename V>
[[gnu::always_inline]] inline void Copy(const float* from, float* to, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes<V> <= count; i += kLanes<V>) Store(to + i, Load<V>(from + i));
  for (; i < count; ++i) to[i] = from[i];
}

template <typename V>
[[gnu::always_inline]] inline void Clear(float* to, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes<V> <= count; i += kLanes<V>) Store(to + i, V{});
  for (; i < count; ++i) to[i] = 0;
}

// Elements [begin, end) of one row of a patch, whose elements are [kernel, channels]. `line` is the
// line of the picture, or null for one beyond its border; x where the patch begins.
template <typename V>
[[gnu::always_inline]] inline void GatherLine(const Rows& rows, const float* line, int64_t x,
                                              int64_t begin, int64_t end, float* to) {
  if (line == nullptr) {
    Clear<V>(to, end - begin);
    return;
  }
  if (rows.up_width == 0) {
    // Points that lie side by side in the picture do so in the patch.
    const int64_t inside = std::clamp(-x * rows.channels, begin, end);
    const int64_t outside = std::clamp((rows.width - x) * rows.channels, inside, end);
    Clear<V>(to, inside - begin);
    Copy<V>(line + x * rows.channels + inside, to + (inside - begin), outside - inside);
    Clear<V>(to + (outside - begin), end - outside);
    return;
  }
  for (int64_t i = begin; i < end;) {
    const int64_t point = i / rows.channels, channel = i - point * rows.channels;
    const int64_t count = std::min(end - i, rows.channels - channel);
    const int64_t at = x + point;
    if (at < 0 || at >= rows.up_width) {
      Clear<V>(to + (i - begin), count);
    } else {
      Copy<V>(line + at * rows.width / rows.up_width * rows.channels + channel, to + (i - begin),
              count);
    }
    i += count;
  }
}

// Elements [begin, end) of `count` patches from row `first`, to [count, end - begin].
template <typename V>
[[gnu::always_inline]] inline void Gather(const Rows& rows, int64_t first, int64_t count,
                                          int64_t begin, int64_t end, float* to) {
  const int64_t line_length = rows.kernel * rows.channels;
  const int64_t height = rows.up_height == 0 ? rows.height : rows.up_height;
  for (int64_t r = first; r < first + count; ++r) {
    const int64_t x = r % rows.out_width * rows.step - rows.padding;
    const int64_t y = r / rows.out_width % rows.out_height * rows.step - rows.padding;
    const float* picture = rows.data + r / (rows.out_width * rows.out_height) * rows.height *
                                           rows.width * rows.channels;
    for (int64_t i = begin; i < end;) {
      const int64_t line = i / line_length, start = i - line * line_length;
      const int64_t stop = std::min(line_length, start + end - i);
      const int64_t at = y + line;
      const float* source = nullptr;
      if (at >= 0 && at < height) {
        const int64_t from = rows.up_height == 0 ? at : at * rows.height / rows.up_height;
        source = picture + from * rows.width * rows.channels;
      }
      GatherLine<V>(rows, source, x, start, stop, to);
      to += stop - start;
      i += stop - start;
    }
  }
}

template <typename V, int kRows, int kVectors>
[[gnu::always_inline]] inline void Panels(const float* a, int64_t a_stride, const Product& p,
                                          int64_t row, int64_t first_panel, int64_t last_panel,
                                          int64_t begin, int64_t count) {
  for (int64_t i = first_panel; i < last_panel; ++i) {
    const int64_t column = i * kPanelColumns;
    const int64_t columns = std::min(kPanelColumns, p.columns - column);
    const int64_t width = RoundUpToLine(columns);
    const float* weights = p.packed + column * p.inner + begin * width;
    ForEachTile<V, kVectors>(width, [&](int64_t at, auto vectors) D2G_INLINE {
      const Panel panel{weights + at, width, column + at, columns - at};
      Tile<V, kRows, decltype(vectors)::value>(a, a_stride, panel, count, p, row, begin == 0);
    });
  }
}

template <typename V, int kRows, int kVectors>
[[gnu::always_inline]] inline void MultiplyLoop(const Product& p, int64_t first_row,
                                                int64_t last_row, int64_t first_panel,
                                                int64_t last_panel) {
  alignas(64) float work[kRows * kInnerBlock];
  const int64_t blocks = (p.inner + kInnerBlock - 1) / kInnerBlock;
  const int64_t block = blocks == 0 ? 0 : (p.inner + blocks - 1) / blocks;
  const int64_t panels_at_once =
      std::max<int64_t>(1, kWeightBlockFloats / (kPanelColumns * std::max<int64_t>(block, 1)));
  for (int64_t panel = first_panel; panel < last_panel; panel += panels_at_once) {
    const int64_t end_panel = std::min(last_panel, panel + panels_at_once);
    for (int64_t begin = 0; begin < p.inner; begin += block) {
      const int64_t count = std::min(block, p.inner - begin);
      for (int64_t row = first_row; row < last_row;) {
        const int64_t rows = std::min<int64_t>(kRows, last_row - row);
        const float* a = p.rows.data + row * p.rows.stride + begin;
        int64_t stride = p.rows.stride;
        if (p.rows.kernel > 0) {
          Gather<V>(p.rows, row, rows, begin, begin + count, work);
          a = work;
          stride = count;
        }
        if (rows == kRows) {
          Panels<V, kRows, kVectors>(a, stride, p, row, panel, end_panel, begin, count);
          row += kRows;
          continue;
        }
        for (const int64_t end = row + rows; row < end;) {
          if (kRows > 4 && end - row >= 4) {
            Panels<V, 4, kVectors>(a, stride, p, row, panel, end_panel, begin, count);
            row += 4, a += 4 * stride;
          } else if (end - row >= 2) {
            Panels<V, 2, kVectors>(a, stride, p, row, panel, end_panel, begin, count);
            row += 2, a += 2 * stride;
          } else {
            Panels<V, 1, kVectors>(a, stride, p, row, panel, end_panel, begin, count);
            row += 1, a += stride;
          }
        }
      }
    }
  }
}

#ifdef D2G_AVX512
D2G_AVX512 void MultiplyAvx512(const Product& p, int64_t first_row, int64_t last_row,
                               int64_t first_panel, int64_t last_panel) {
  MultiplyLoop<Float16, 8, 3>(p, first_row, last_row, first_panel, last_panel);
}
D2G_AVX2 void MultiplyAvx2(const Product& p, int64_t first_row, int64_t last_row,
                           int64_t first_panel, int64_t last_panel) {
  MultiplyLoop<Float8, 6, 2>(p, first_row, last_row, first_panel, last_panel);
}
#endif
void MultiplyPortable(const Product& p, int64_t first_row, int64_t last_row, int64_t first_panel,
                      int64_t last_panel) {
  MultiplyLoop<Float4, 2, 4>(p, first_row, last_row, first_panel, last_panel);
}

}  // namespace

int64_t PanelCount(int64_t columns) { return (columns + kPanelColumns - 1) / kPanelColumns; }

int64_t PackedFloats(int64_t inner, int64_t columns) { return inner * RoundUpToLine(columns); }

void PackPanels(const float* from, int64_t inner, int64_t columns, int64_t taps, float* packed,
                int64_t first, int64_t last) {
  const int64_t channels = inner / taps;
  // A block of some columns is read in order and written in order, and turned in between.
  const int64_t at_once = std::max<int64_t>(1, kPackedAtOnce / taps);
  std::vector<float> block(static_cast<size_t>(kLine * at_once * taps));
  for (int64_t i = first; i < last; ++i) {
    const int64_t width = RoundUpToLine(std::min(kPanelColumns, columns - i * kPanelColumns));
    float* panel = packed + i * kPanelColumns * inner;
    for (int64_t at = 0; at < width; at += kLine) {
      const int64_t column = i * kPanelColumns + at;
      for (int64_t channel = 0; channel < channels; channel += at_once) {
        const int64_t count = std::min(at_once, channels - channel);
        for (int64_t c = 0; c < kLine; ++c) {
          float* to = block.data() + c * count * taps;
          if (column + c < columns) {
            std::copy_n(from + (column + c) * inner + channel * taps, count * taps, to);
          } else {
            std::fill_n(to, count * taps, 0.0f);
          }
        }
        for (int64_t tap = 0; tap < taps; ++tap) {
          for (int64_t k = 0; k < count; ++k) {
            float* to = panel + (tap * channels + channel + k) * width + at;
            const float* turned = block.data() + k * taps + tap;
            for (int64_t c = 0; c < kLine; ++c) to[c] = turned[c * count * taps];
          }
        }
      }
    }
  }
}

int64_t TileRows(Instructions instructions) {
  switch (instructions) {
    case Instructions::kAvx512:
      return 8;
    case Instructions::kAvx2:
      return 6;
    case Instructions::kPortable:
      break;
  }
  return 2;
}

void Multiply(const Product& product, int64_t first_row, int64_t last_row, int64_t first_panel,
              int64_t last_panel, [[maybe_unused]] Instructions instructions) {
#ifdef D2G_AVX512
  if (instructions == Instructions::kAvx512) {
    MultiplyAvx512(product, first_row, last_row, first_panel, last_panel);
    return;
  }
  if (instructions == Instructions::kAvx2) {
    MultiplyAvx2(product, first_row, last_row, first_panel, last_panel);
    return;
  }
#endif
  MultiplyPortable(product, first_row, last_row, first_panel, last_panel);
}

}  // namespace d2g::model
