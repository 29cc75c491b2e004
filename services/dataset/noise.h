// The noise z of a triple: standard normal numbers that are a pure function of (seed, index).
#pragma once

#include <cstdint>
#include <span>

namespace d2g::dataset {

// Fills `out` (float32, any length, row-major C*H*W of the latent) with independent standard normal
// numbers: the z of triple `index` under a dataset's `seed`. The first n numbers do not depend on
// out.size(). The same bytes on every machine: integers, then + - * / and sqrt on doubles, each
// rounded once (the library is compiled without contraction), and no libm, whose log and cos differ
// between machines. Largest magnitude 6.77 (32-bit uniforms). Pure, thread-safe.
void FillNoise(uint64_t seed, int64_t index, std::span<float> out);

}  // namespace d2g::dataset
