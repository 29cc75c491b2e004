#include "model/kernels/winograd_loops.h"

#include "model/kernels/simd_lanes.h"

namespace d2g::model {

namespace {

// A square needs 4x4 points of the picture and becomes as many products.
constexpr int64_t kSide = 4;
constexpr int64_t kPoints = kSide * kSide;
constexpr int64_t kKernel = 3;
// Weights are transformed for so many channels of one panel at a time.
constexpr int64_t kChannelsAtOnce = 64;

// The values of one place for all points are written together. Their distance is this more than a
// power of two, which would send all of them to the same few lines of the cache.
constexpr int64_t kGap = kLine;

// Scratch memory for blocks of `squares` squares.
struct Work {
  Work(const Product& p, int64_t squares, float* memory)
      : input(memory),
        weights(input + kPoints * (squares * p.rows.channels + kGap)),
        sums(weights + kPoints * kWeightStride),
        zeros(sums + kPoints * (squares * kPanelColumns + kGap)) {}

  // What all of them take together.
  static int64_t Floats(const Product& p, int64_t squares) {
    return kPoints * (squares * (p.rows.channels + kPanelColumns) + kWeightStride + 2 * kGap) +
           p.rows.channels;
  }

  static constexpr int64_t kWeightStride = kChannelsAtOnce * kPanelColumns + kGap;

  float* input;    // [kPoints, squares, channels], a gap after each point
  float* weights;  // [kPoints, kChannelsAtOnce, width of the panel], likewise
  float* sums;     // [kPoints, squares, width of the panel], likewise
  float* zeros;    // [channels]: what lies beyond the border
};

int64_t Across(const Rows& rows) { return (rows.out_width + 1) / 2; }
int64_t Down(const Rows& rows) { return (rows.out_height + 1) / 2; }

struct Square {
  int64_t picture, y, x;  // of its first result
};

[[gnu::always_inline]] inline Square SquareAt(const Rows& rows, int64_t index) {
  const int64_t across = Across(rows), down = Down(rows);
  return {index / (across * down), index / across % down * 2, index % across * 2};
}

// One dimension of the three transforms. d0..d3 -> d0 - d2, d1 + d2, d2 - d1, d1 - d3.
template <typename V>
[[gnu::always_inline]] inline void TransformInput(V d0, V d1, V d2, V d3, V* out, int64_t stride) {
  out[0] = d0 - d2;
  out[stride] = d1 + d2;
  out[2 * stride] = d2 - d1;
  out[3 * stride] = d1 - d3;
}

// g0..g2 -> g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2.
template <typename V>
[[gnu::always_inline]] inline void TransformWeights(V g0, V g1, V g2, V* out, int64_t stride) {
  const V ends = (g0 + g2) * 0.5f, middle = g1 * 0.5f;
  out[0] = g0;
  out[stride] = ends + middle;
  out[2 * stride] = ends - middle;
  out[3 * stride] = g2;
}

template <typename V>
[[gnu::always_inline]] inline void GatherSquare(const Rows& rows, int64_t index, const Work& work,
                                                int64_t at, int64_t squares) {
  const Square square = SquareAt(rows, index);
  const bool enlarged = rows.up_height > 0;
  const int64_t height = enlarged ? rows.up_height : rows.height;
  const int64_t width = enlarged ? rows.up_width : rows.width;
  const float* picture = rows.data + square.picture * rows.height * rows.width * rows.channels;
  const float* points[kSide][kSide];
  for (int64_t i = 0; i < kSide; ++i) {
    const int64_t y = square.y + i - 1;
    for (int64_t j = 0; j < kSide; ++j) {
      const int64_t x = square.x + j - 1;
      if (y < 0 || y >= height || x < 0 || x >= width) {
        points[i][j] = work.zeros;
        continue;
      }
      const int64_t from_y = enlarged ? y * rows.height / height : y;
      const int64_t from_x = enlarged ? x * rows.width / width : x;
      points[i][j] = picture + (from_y * rows.width + from_x) * rows.channels;
    }
  }
  float* to = work.input + at * rows.channels;
  const int64_t stride = squares * rows.channels + kGap;
  for (int64_t c = 0; c < rows.channels; c += kLanes<V>) {
    V half[kPoints], out[kPoints];
    for (int64_t j = 0; j < kSide; ++j) {
      TransformInput(Load<V>(points[0][j] + c), Load<V>(points[1][j] + c),
                     Load<V>(points[2][j] + c), Load<V>(points[3][j] + c), half + j, kSide);
    }
    for (int64_t i = 0; i < kSide; ++i) {
      const V* line = half + i * kSide;
      TransformInput(line[0], line[1], line[2], line[3], out + i * kSide, 1);
    }
    for (int64_t p = 0; p < kPoints; ++p) Store(to + p * stride + c, out[p]);
  }
}

// Channels [first, first + count) of a panel.
template <typename V>
[[gnu::always_inline]] inline void GatherWeights(const Product& p, const float* panel,
                                                 int64_t width, int64_t first, int64_t count,
                                                 const Work& work) {
  const int64_t tap = p.rows.channels * width;
  for (int64_t k = 0; k < count; ++k) {
    const float* from = panel + (first + k) * width;
    float* to = work.weights + k * width;
    for (int64_t v = 0; v < width; v += kLanes<V>) {
      V half[kSide * kKernel], out[kPoints];
      for (int64_t j = 0; j < kKernel; ++j) {
        TransformWeights(Load<V>(from + j * tap + v), Load<V>(from + (kKernel + j) * tap + v),
                         Load<V>(from + (2 * kKernel + j) * tap + v), half + j, kKernel);
      }
      for (int64_t i = 0; i < kSide; ++i) {
        const V* line = half + i * kKernel;
        TransformWeights(line[0], line[1], line[2], out + i * kSide, 1);
      }
      for (int64_t point = 0; point < kPoints; ++point) {
        Store(to + point * Work::kWeightStride + v, out[point]);
      }
    }
  }
}

template <typename V, int kRows, int kVectors>
[[gnu::always_inline]] inline void AddProducts(const float* a, int64_t a_stride, const float* b,
                                               int64_t width, int64_t count, float* results,
                                               bool begins) {
  ForEachTile<V, kVectors>(width, [&](int64_t at, auto vectors) D2G_INLINE {
    constexpr int kTile = decltype(vectors)::value;
    V sums[kRows][kTile];
    TileSums(a, a_stride, b + at, width, count, sums);
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kTile; ++v) {
        float* to = results + r * width + at + v * kLanes<V>;
        Store(to, begins ? sums[r][v] : sums[r][v] + Load<V>(to));
      }
    }
  });
}

// One vector of columns of one square's results: sums, bias, what is added, into the picture.
template <typename V>
[[gnu::always_inline]] inline void FinishSquare(const Product& p, const Square& square,
                                                const float* sums, int64_t stride, int64_t column) {
  V half[2][kSide];
  for (int64_t j = 0; j < kSide; ++j) {
    const V m0 = Load<V>(sums + j * stride), m1 = Load<V>(sums + (kSide + j) * stride);
    const V m2 = Load<V>(sums + (2 * kSide + j) * stride);
    const V m3 = Load<V>(sums + (3 * kSide + j) * stride);
    half[0][j] = m0 + m1 + m2;
    half[1][j] = m1 - m2 - m3;
  }
  const int64_t left = p.columns - column;
  if (left <= 0) return;
  V bias = {};
  if (p.bias != nullptr) bias = LoadSome<V>(p.bias + column, left);
  for (int64_t i = 0; i < 2 && square.y + i < p.rows.out_height; ++i) {
    const V* line = half[i];
    const V results[2] = {line[0] + line[1] + line[2], line[1] - line[2] - line[3]};
    for (int64_t j = 0; j < 2 && square.x + j < p.rows.out_width; ++j) {
      const int64_t row =
          (square.picture * p.rows.out_height + square.y + i) * p.rows.out_width + square.x + j;
      V result = results[j] + bias;
      if (p.added != nullptr) result += LoadSome<V>(p.added + row * p.added_stride + column, left);
      StoreSome(p.out + row * p.out_stride + column, result, left);
    }
  }
}

template <typename V, int kRows, int kVectors>
[[gnu::always_inline]] inline void WinogradLoop(const Product& p, int64_t first, int64_t last,
                                                int64_t first_panel, int64_t last_panel,
                                                float* memory) {
  const int64_t channels = p.rows.channels;
  const int64_t at_once = std::min(kSquaresAtOnce, last - first);
  const Work work(p, at_once, memory);
  std::fill_n(work.zeros, channels, 0.0f);
  for (int64_t begin = first; begin < last; begin += at_once) {
    const int64_t squares = std::min(at_once, last - begin);
    for (int64_t i = 0; i < squares; ++i) GatherSquare<V>(p.rows, begin + i, work, i, squares);
    for (int64_t panel = first_panel; panel < last_panel; ++panel) {
      const int64_t column = panel * kPanelColumns;
      const int64_t width = RoundUpToLine(std::min(kPanelColumns, p.columns - column));
      for (int64_t channel = 0; channel < channels; channel += kChannelsAtOnce) {
        const int64_t count = std::min(kChannelsAtOnce, channels - channel);
        GatherWeights<V>(p, p.packed + column * p.inner, width, channel, count, work);
        for (int64_t point = 0; point < kPoints; ++point) {
          const float* b = work.weights + point * Work::kWeightStride;
          const float* input = work.input + point * (squares * channels + kGap) + channel;
          float* results = work.sums + point * (squares * width + kGap);
          for (int64_t row = 0; row < squares;) {
            const float* a = input + row * channels;
            float* sums = results + row * width;
            const bool begins = channel == 0;
            if (squares - row >= kRows) {
              AddProducts<V, kRows, kVectors>(a, channels, b, width, count, sums, begins);
              row += kRows;
            } else if (kRows > 4 && squares - row >= 4) {
              AddProducts<V, 4, kVectors>(a, channels, b, width, count, sums, begins);
              row += 4;
            } else {
              AddProducts<V, 1, kVectors>(a, channels, b, width, count, sums, begins);
              row += 1;
            }
          }
        }
      }
      for (int64_t i = 0; i < squares; ++i) {
        const Square square = SquareAt(p.rows, begin + i);
        for (int64_t v = 0; v < width; v += kLanes<V>) {
          FinishSquare<V>(p, square, work.sums + i * width + v, squares * width + kGap, column + v);
        }
      }
    }
  }
}

#ifdef D2G_AVX512
D2G_AVX512 void WinogradAvx512(const Product& p, int64_t first, int64_t last, int64_t first_panel,
                               int64_t last_panel, float* work) {
  WinogradLoop<Float16, 8, 3>(p, first, last, first_panel, last_panel, work);
}
D2G_AVX2 void WinogradAvx2(const Product& p, int64_t first, int64_t last, int64_t first_panel,
                           int64_t last_panel, float* work) {
  WinogradLoop<Float8, 6, 2>(p, first, last, first_panel, last_panel, work);
}
#endif
void WinogradPortable(const Product& p, int64_t first, int64_t last, int64_t first_panel,
                      int64_t last_panel, float* work) {
  WinogradLoop<Float4, 2, 4>(p, first, last, first_panel, last_panel, work);
}

}  // namespace

bool TakesWinograd(const Rows& rows) {
  return rows.kernel == kKernel && rows.step == 1 && rows.padding == 1 &&
         rows.channels % kLine == 0;
}

int64_t SquareCount(const Rows& rows) { return Across(rows) * Down(rows); }

int64_t WinogradWork(const Product& product, int64_t squares) {
  return Work::Floats(product, std::min(kSquaresAtOnce, squares));
}

void MultiplyWinograd(const Product& product, int64_t first, int64_t last, int64_t first_panel,
                      int64_t last_panel, float* work, [[maybe_unused]] Instructions instructions) {
#ifdef D2G_AVX512
  if (instructions == Instructions::kAvx512) {
    WinogradAvx512(product, first, last, first_panel, last_panel, work);
    return;
  }
  if (instructions == Instructions::kAvx2) {
    WinogradAvx2(product, first, last, first_panel, last_panel, work);
    return;
  }
#endif
  WinogradPortable(product, first, last, first_panel, last_panel, work);
}

}  // namespace d2g::model
