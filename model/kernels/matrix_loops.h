// Products of a matrix of rows with a packed matrix of weights, over plain memory: the inner loops
// of packed_weight.h. A convolution is such a product too, its rows being patches of a picture.
//
// They do not see LibTorch and start no threads. Each has one version for each instruction set; a
// caller may ask for another than the machine's best, not for one that the machine lacks.
#pragma once

#include <cstdint>

#include "model/kernels/instructions.h"

namespace d2g::model {

// The weights [inner, columns] are stored in panels of kPanelColumns columns, each [inner, width]
// without gaps, where the last panel's width is what is left, rounded up to whole lanes and filled
// with zeros.
inline constexpr int64_t kPanelColumns = 48;

int64_t PanelCount(int64_t columns);
// Floats that the packed form takes.
int64_t PackedFloats(int64_t inner, int64_t columns);

// Panels [first, last) of the packed form of from [columns, inner / taps, taps]: row k of the
// matrix is channel k % (inner / taps) of tap k / (inner / taps). So a convolution's weight [out,
// in, kh, kw] becomes the matrix [kh * kw * in, out], and a linear layer's [out, in] (one tap) its
// transpose.
void PackPanels(const float* from, int64_t inner, int64_t columns, int64_t taps, float* packed,
                int64_t first, int64_t last);

// The left matrix [count, inner].
struct Rows {
  const float* data = nullptr;
  int64_t stride = 0;  // between rows; unused for patches

  // With kernel > 0 the rows are patches of pictures [batch, height, width, channels], one for each
  // point of [batch, out_height, out_width], in the order [kernel, kernel, channels]. Beyond the
  // border lie zeros. The picture may be enlarged on the way to [up_height, up_width] by repeating
  // the nearest point.
  int64_t kernel = 0, step = 1, padding = 0;
  int64_t height = 0, width = 0, channels = 0;
  int64_t up_height = 0, up_width = 0;
  int64_t out_height = 0, out_width = 0;
};

struct Product {
  Rows rows;
  const float* packed;
  const float* bias;   // one for each column, or null
  const float* added;  // [count, columns], added to the result, or null; may be `out`
  float* out;          // [count, columns]
  int64_t inner, columns;
  int64_t added_stride, out_stride;
};

// Rows are computed in tiles of this many; a caller that splits the work splits it here.
int64_t TileRows(Instructions instructions = MachineInstructions());

// out = rows * packed + bias + added, for rows [first_row, last_row) and the columns of panels
// [first_panel, last_panel).
void Multiply(const Product& product, int64_t first_row, int64_t last_row, int64_t first_panel,
              int64_t last_panel, Instructions instructions = MachineInstructions());

}  // namespace d2g::model
