// What goes through the networks together, and what the discriminator is to tell from it.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace d2g::distil {

// What D's negative of a triple is.
enum class NegativeKind : int8_t {
  kGenerated,   // (z, G(z, c), c)
  kOtherText,   // (z, x, c') with another triple's prompt
  kOtherNoise,  // (z', x, c) with another triple's noise
};

// The negative of the triple at `position` of the global batch: each mismatched kind gets a share
// of `mismatch_weight`, spread evenly over the positions, the same at any number of ranks.
NegativeKind NegativeKindAt(int64_t position, double mismatch_weight);

// Triples that go through the networks together. All tensors fp32, on the networks' device.
struct MicroBatch {
  at::Tensor z;     // [B,C,H,W] noise
  at::Tensor x;     // [B,C,H,W] the teacher's solution
  at::Tensor text;  // [B,L,D] embedding of the prompt
  // [B] 1 for a triple that counts, 0 for one that is skipped (its x may hold anything).
  at::Tensor weight;
  // Only read where D trains: its negatives, and for the rows that need them the other triple's
  // text [B,L,D] and noise [B,C,H,W] (other rows may hold anything finite; undefined when no row
  // needs them).
  std::vector<NegativeKind> negatives;
  at::Tensor other_text;
  at::Tensor other_noise;

  int64_t rows() const { return z.size(0); }
  // One triple as a batch of its own.
  MicroBatch Row(int64_t row) const;
};

// What D judges: triples (z, x, c).
struct JudgedTriples {
  at::Tensor z;
  at::Tensor x;
  at::Tensor text;
};

// D's negative of each of the batch's triples, where `pictures` are G's. Throws model::Error when
// the batch does not name its negatives or lacks what they are made from.
JudgedTriples Negatives(const MicroBatch& batch, const at::Tensor& pictures);

}  // namespace d2g::distil
