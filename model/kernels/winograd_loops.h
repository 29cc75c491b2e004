// 3x3 convolutions in Winograd's form F(2x2, 3x3): 16 multiplications for each square of four
// results where the plain form has 36, with constants of 1 and 1/2 that cost no precision. Source:
// Lavin and Gray, arXiv 1509.09308. See matrix_loops.h for how it is compiled.
#pragma once

#include "model/kernels/matrix_loops.h"

namespace d2g::model {

// Whether `rows` are patches that this form takes: kernel 3, step 1, padding 1, whole lanes of
// channels.
bool TakesWinograd(const Rows& rows);

// Squares of 2x2 results of one picture, and how many of them a caller that splits the work should
// leave together.
int64_t SquareCount(const Rows& rows);
inline constexpr int64_t kSquaresAtOnce = 64;

// Floats of scratch memory for `squares` squares.
int64_t WinogradWork(const Product& product, int64_t squares);

// As Multiply, with the rows given by squares: [first, last) of all pictures. The weights are those
// of the plain form; they are transformed on the way, a block at a time.
void MultiplyWinograd(const Product& product, int64_t first, int64_t last, int64_t first_panel,
                      int64_t last_panel, float* work,
                      Instructions instructions = MachineInstructions());

}  // namespace d2g::model
