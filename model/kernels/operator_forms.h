// The forms behind operators.h as a table, so that a benchmark can put others in their place and
// compare (bench/kernel_forms.h). Nothing else has a use for it.
#pragma once

#include <ATen/ATen.h>

#include "model/kernels/operators.h"

namespace d2g::model::kernels {

// Each as the function of its name in operators.h.
struct Forms {
  at::Tensor (*linear)(const at::Tensor& x, const LayerWeight& weight, const at::Tensor& added);
  at::Tensor (*conv)(const at::Tensor& x, const LayerWeight& weight, const ConvShape& shape,
                     const at::Tensor& added);
  at::Tensor (*group_norm)(const at::Tensor& x, int64_t groups, const NormWeight& norm,
                           const at::Tensor& shift, bool silu);
  at::Tensor (*layer_norm)(const at::Tensor& x, const NormWeight& norm);
  at::Tensor (*geglu)(const at::Tensor& x);
  // Scores in the dtype of q.
  at::Tensor (*attention)(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          const at::Tensor& mask);
};

// Those that are used unless a benchmark chose others.
const Forms& ProductForms();

// From now on. Not while an operator runs.
void UseForms(const Forms& forms);

}  // namespace d2g::model::kernels
