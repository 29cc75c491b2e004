#include "model/solver/dynamic_threshold.h"

#include <ATen/ATen.h>

namespace d2g::model {

at::Tensor DynamicThreshold(const at::Tensor& x, double ratio, double max_value) {
  const at::Tensor rows =
      (x.scalar_type() == at::kDouble ? x : x.to(at::kFloat)).reshape({x.size(0), -1});
  const at::Tensor s = at::quantile(rows.abs(), ratio, 1).clamp(1, max_value).unsqueeze(1);
  return (at::clamp(rows, -s, s) / s).reshape(x.sizes()).to(x.scalar_type());
}

}  // namespace d2g::model
