#include "model/kernels/onednn_linear.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

namespace d2g::model {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Below some hundred rows the set-up costs more than it gains.
constexpr int64_t kSmallestInput = 16'384;

// The product, under the name by which LibTorch's own compiler calls it. No gradient.
at::Tensor Product(const at::Tensor& x, const at::Tensor& weight,
                   const std::optional<at::Tensor>& bias) {
  using Signature = at::Tensor(
      const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, c10::string_view,
      c10::List<std::optional<at::Scalar>>, std::optional<c10::string_view>);
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mkldnn::_linear_pointwise", "")
                             .typed<Signature>();
  return op.call(x.contiguous(), weight.contiguous(), bias, "none",
                 c10::List<std::optional<at::Scalar>>(), "");
}

class LinearFunction : public torch::autograd::Function<LinearFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias) {
    context->saved_data["bias"] = bias.has_value();
    context->save_for_backward({x, weight});
    return Product(x, weight, bias);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor& weight = saved[1];
    const at::Tensor& gradient = gradients[0];
    variable_list result(3);
    if (!gradient.defined()) return result;
    if (context->needs_input_grad(0)) result[0] = OneDnnLinear(gradient, weight.t(), {});
    const at::Tensor rows = gradient.reshape({-1, gradient.size(-1)});
    if (context->needs_input_grad(1)) {
      result[1] = OneDnnLinear(rows.t(), x.reshape({-1, x.size(-1)}).t(), {});
    }
    if (context->saved_data["bias"].toBool() && context->needs_input_grad(2))
      result[2] = rows.sum(0);
    return result;
  }
};

}  // namespace

bool UseOneDnnLinear(const at::Tensor& x) {
  return x.is_cpu() && x.scalar_type() == at::kFloat && x.numel() > kSmallestInput;
}

at::Tensor OneDnnLinear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const std::optional<at::Tensor> maybe_bias = bias.defined() ? std::optional(bias) : std::nullopt;
  if (at::GradMode::is_enabled()) return LinearFunction::apply(x, weight, maybe_bias);
  return Product(x, weight, maybe_bias);
}

}  // namespace d2g::model
