#include "worker/distil/micro_batch.h"

#include <ATen/ATen.h>

#include <cmath>
#include <numbers>

#include "model/files/error.h"

namespace d2g::distil {
namespace {

// Rows of `own`, or of `other` where `kind` is asked for.
at::Tensor ReplaceRows(const at::Tensor& own, const at::Tensor& other,
                       const std::vector<NegativeKind>& kinds, NegativeKind kind) {
  std::vector<int64_t> rows;
  for (size_t i = 0; i < kinds.size(); ++i) {
    if (kinds[i] == kind) rows.push_back(static_cast<int64_t>(i));
  }
  if (rows.empty()) return own;
  if (!other.defined() || other.sizes() != own.sizes()) {
    throw model::Error("the batch has mismatched negatives but not the tensor to make them from");
  }
  const at::Tensor index = at::tensor(rows).to(own.device());
  return own.index_copy(0, index, other.index_select(0, index));
}

}  // namespace

NegativeKind NegativeKindAt(int64_t position, double mismatch_weight) {
  // The fractional parts of multiples of the golden ratio fill [0, 1) evenly from the first on.
  double whole;
  const double place = std::modf(static_cast<double>(position) * (std::numbers::phi - 1), &whole);
  if (place < mismatch_weight) return NegativeKind::kOtherText;
  if (place < 2 * mismatch_weight) return NegativeKind::kOtherNoise;
  return NegativeKind::kGenerated;
}

MicroBatch MicroBatch::Row(int64_t row) const {
  const auto cut = [row](const at::Tensor& tensor) {
    return tensor.defined() ? tensor.narrow(0, row, 1) : tensor;
  };
  MicroBatch one;
  one.z = cut(z);
  one.x = cut(x);
  one.text = cut(text);
  one.weight = cut(weight);
  if (!negatives.empty()) one.negatives = {negatives[static_cast<size_t>(row)]};
  one.other_text = cut(other_text);
  one.other_noise = cut(other_noise);
  return one;
}

JudgedTriples Negatives(const MicroBatch& batch, const at::Tensor& pictures) {
  if (static_cast<int64_t>(batch.negatives.size()) != batch.rows()) {
    model::Fail("the micro-batch names ", batch.negatives.size(), " negatives for ", batch.rows(),
                " triples");
  }
  return {
      .z = ReplaceRows(batch.z, batch.other_noise, batch.negatives, NegativeKind::kOtherNoise),
      .x = ReplaceRows(batch.x, pictures, batch.negatives, NegativeKind::kGenerated),
      .text = ReplaceRows(batch.text, batch.other_text, batch.negatives, NegativeKind::kOtherText)};
}

}  // namespace d2g::distil
