#include "bench/kernel_forms.h"

#include <ATen/core/dispatch/Dispatcher.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <limits>
#include <optional>
#include <sstream>
#include <utility>
#include <vector>

#include "model/kernels/channels_last.h"
#include "model/kernels/operator_forms.h"

namespace d2g::model {
namespace {

using kernels::ConvShape;
using kernels::Forms;
using kernels::LayerWeight;
using kernels::NormWeight;
using kernels::ProductForms;
using OptionalTensor = std::optional<at::Tensor>;
using Scalars = c10::List<std::optional<at::Scalar>>;

constexpr auto kLast = at::MemoryFormat::ChannelsLast;

OptionalTensor IfDefined(const at::Tensor& x) {
  return x.defined() ? OptionalTensor(x) : std::nullopt;
}

template <typename Signature>
auto Operator(const char* name, const char* overload = "") {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, overload).typed<Signature>();
}

// How a library laid a layer's weight out. For a convolution that depends on the input's size.
struct LaidOut {
  at::Tensor weight, matrix;
  std::vector<int64_t> input;
};
enum class Library { kOneDnn, kMkl };

// By layer, so that a network that runs in one form lays out its weights once. Emptied by
// CompareKernelForms, which needs each but for a moment.
std::map<std::pair<const void*, Library>, LaidOut>& LaidOutWeights() {
  static auto& weights = *new std::map<std::pair<const void*, Library>, LaidOut>;
  return weights;
}

at::Tensor Matrix(const LayerWeight& w) {
  return w.weight.dim() == 4 ? w.weight.flatten(1) : w.weight;
}

at::Tensor EagerLinear(const at::Tensor& x, const LayerWeight& w, const at::Tensor& added) {
  at::Tensor y = at::linear(x, Matrix(w), IfDefined(w.bias));
  return added.defined() ? y.add_(added) : y;
}

const LaidOut& LayOutLinear(const at::Tensor& x, const LayerWeight& w, Library library) {
  LaidOut& laid_out = LaidOutWeights()[{w.packed.get(), library}];
  const int64_t rows = x.numel() / x.size(-1);
  if (laid_out.input == std::vector{rows}) return laid_out;
  laid_out.input = {rows};
  laid_out.matrix = Matrix(w);
  if (library == Library::kMkl) {
    static const auto op =
        Operator<at::Tensor(const at::Tensor&, int64_t)>("mkl::_mkl_reorder_linear_weight");
    laid_out.weight = op.call(laid_out.matrix, rows);
  } else {
    static const auto op = Operator<at::Tensor(const at::Tensor&, std::optional<int64_t>)>(
        "mkldnn::_reorder_linear_weight");
    laid_out.weight = op.call(laid_out.matrix, rows);
  }
  return laid_out;
}

at::Tensor OneDnnLinear(const at::Tensor& x, const LayerWeight& w, const at::Tensor& added) {
  const at::Tensor& weight = LayOutLinear(x, w, Library::kOneDnn).weight;
  if (added.defined()) {
    static const auto op =
        Operator<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                            const OptionalTensor&, c10::string_view)>("mkldnn::_linear_pointwise",
                                                                      "binary");
    return op.call(x.contiguous(), added.contiguous(), weight, IfDefined(w.bias), "add");
  }
  static const auto op =
      Operator<at::Tensor(const at::Tensor&, const at::Tensor&, const OptionalTensor&,
                          c10::string_view, Scalars, std::optional<c10::string_view>)>(
          "mkldnn::_linear_pointwise");
  return op.call(x.contiguous(), weight, IfDefined(w.bias), "none", Scalars(), "");
}

at::Tensor MklLinear(const at::Tensor& x, const LayerWeight& w, const at::Tensor& added) {
  const LaidOut& laid_out = LayOutLinear(x, w, Library::kMkl);
  static const auto op =
      Operator<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                          const OptionalTensor&, int64_t)>("mkl::_mkl_linear");
  at::Tensor y = op.call(x.contiguous(), laid_out.weight, laid_out.matrix, IfDefined(w.bias),
                         laid_out.input[0]);
  return added.defined() ? y.add_(added) : y;
}

// What a library's convolution gets where ours enlarges or pads on the way.
at::Tensor Prepared(const at::Tensor& x, const ConvShape& shape) {
  at::Tensor in = x;
  if (shape.up_height != 0) {
    in = at::upsample_nearest2d(in, at::IntArrayRef{shape.up_height, shape.up_width});
  }
  return shape.padding_behind ? at::constant_pad_nd(in, {0, 1, 0, 1}) : in;
}

// In the memory order of x, which decides that of the weight.
at::Tensor EagerConv(const at::Tensor& x, const LayerWeight& w, const ConvShape& s,
                     const at::Tensor& added) {
  at::Tensor y = at::conv2d(Prepared(x, s), w.weight, IfDefined(w.bias), {s.stride, s.stride},
                            at::IntArrayRef{s.padding, s.padding});
  return added.defined() ? y.add_(added) : y;
}

at::Tensor OneDnnConv(const at::Tensor& x, const LayerWeight& w, const ConvShape& s,
                      const at::Tensor& added) {
  const at::Tensor in = Prepared(x, s);
  const std::vector<int64_t> ones{1, 1}, stride{s.stride, s.stride}, padding{s.padding, s.padding};
  LaidOut& laid_out = LaidOutWeights()[{w.packed.get(), Library::kOneDnn}];
  if (laid_out.input != in.sizes()) {
    laid_out.input = in.sizes().vec();
    laid_out.weight = at::mkldnn_reorder_conv2d_weight(w.weight.to_mkldnn(), padding, stride, ones,
                                                       1, in.sizes());
  }
  if (added.defined()) {
    static const auto op = Operator<at::Tensor(
        const at::Tensor&, const at::Tensor&, const at::Tensor&, const OptionalTensor&,
        at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, int64_t, c10::string_view,
        std::optional<at::Scalar>, std::optional<c10::string_view>, Scalars,
        std::optional<c10::string_view>)>("mkldnn::_convolution_pointwise", "binary");
    return op.call(in, added, laid_out.weight, IfDefined(w.bias), padding, stride, ones, 1, "add",
                   std::nullopt, std::nullopt, Scalars(), std::nullopt);
  }
  static const auto op = Operator<at::Tensor(
      const at::Tensor&, const at::Tensor&, const OptionalTensor&, at::IntArrayRef, at::IntArrayRef,
      at::IntArrayRef, int64_t, c10::string_view, Scalars, std::optional<c10::string_view>)>(
      "mkldnn::_convolution_pointwise");
  return op.call(in, laid_out.weight, IfDefined(w.bias), padding, stride, ones, 1, "none",
                 Scalars(), "");
}

at::Tensor ProductConv(const at::Tensor& x, const LayerWeight& w, const ConvShape& s,
                       const at::Tensor& added) {
  auto size = [&](int64_t from) {
    return (from + 2 * s.padding + (s.padding_behind ? 1 : 0) - w.packed->kernel()) / s.stride + 1;
  };
  return w.packed->Convolve(x,
                            {.step = s.stride,
                             .padding = s.padding,
                             .out_height = size(s.up_height != 0 ? s.up_height : x.size(2)),
                             .out_width = size(s.up_width != 0 ? s.up_width : x.size(3)),
                             .up_height = s.up_height,
                             .up_width = s.up_width,
                             .winograd = false},
                            added);
}

at::Tensor EagerGroupNorm(const at::Tensor& x, int64_t groups, const NormWeight& norm,
                          const at::Tensor& shift, bool silu) {
  const at::Tensor in = shift.defined() ? x + shift.unsqueeze(-1).unsqueeze(-1) : x;
  at::Tensor y = at::group_norm(in, groups, norm.weight, norm.bias, norm.eps);
  return silu ? at::silu_(y) : y;
}

at::Tensor EagerLayerNorm(const at::Tensor& x, const NormWeight& norm) {
  return at::layer_norm(x, {x.size(-1)}, norm.weight, norm.bias, norm.eps);
}

at::Tensor EagerGeglu(const at::Tensor& x) {
  const std::vector<at::Tensor> halves = x.chunk(2, -1);
  return halves[0] * at::gelu(halves[1]);
}

at::Tensor EagerAttention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          const at::Tensor& mask) {
  return at::scaled_dot_product_attention(q, k, v, IfDefined(mask));
}

at::Tensor MatrixAttention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           const at::Tensor& mask) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(-1)));
  at::Tensor scores = at::matmul(q * scale, k.transpose(-2, -1));
  if (mask.defined()) scores += mask;
  return at::matmul(at::softmax(scores, -1), v);
}

// Those that Winograd's form takes (winograd_loops.h).
bool Is3x3(const LayerWeight& w, const ConvShape& s) {
  return w.packed->kernel() == 3 && s.stride == 1 && s.padding == 1 && w.weight.size(1) % 16 == 0;
}

// ---- Choosing.

Forms chosen_3x3, chosen_other;  // Only `conv` is read.

at::Tensor ConvByKind(const at::Tensor& x, const LayerWeight& w, const ConvShape& s,
                      const at::Tensor& added) {
  return (Is3x3(w, s) ? chosen_3x3 : chosen_other).conv(x, w, s, added);
}

decltype(Forms::conv) ConvForm(const std::string& name) {
  if (name == "product") return ProductConv;
  if (name == "eager") return EagerConv;
  TORCH_CHECK(name == "onednn", "no form of a convolution: ", name);
  return OneDnnConv;
}

void Choose(Forms& forms, const std::string& kernel, const std::string& form) {
  if (kernel == "product") {
    TORCH_CHECK(form == "eager" || form == "onednn" || form == "mkl", "no form of product: ", form);
    forms.linear = form == "eager" ? EagerLinear : form == "mkl" ? MklLinear : OneDnnLinear;
  } else if (kernel == "conv3x3") {
    chosen_3x3.conv = ConvForm(form);
    forms.conv = ConvByKind;
  } else if (kernel == "conv") {
    chosen_other.conv = ConvForm(form);
    forms.conv = ConvByKind;
  } else if (kernel == "attention") {
    TORCH_CHECK(form == "eager" || form == "matrix", "no form of attention: ", form);
    forms.attention = form == "matrix" ? MatrixAttention : EagerAttention;
  } else {
    TORCH_CHECK(form == "eager", "no form of ", kernel, ": ", form);
    if (kernel == "group_norm") {
      forms.group_norm = EagerGroupNorm;
    } else if (kernel == "layer_norm") {
      forms.layer_norm = EagerLayerNorm;
    } else {
      TORCH_CHECK(kernel == "geglu", "no kernel ", kernel);
      forms.geglu = EagerGeglu;
    }
  }
}

// ---- Comparing.

double ThreadSeconds() {
  timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

KernelSeconds* comparison = nullptr;

// A call is repeated until the clock can tell how long it takes, and that some times.
constexpr double kTellable = 1e-4, kLong = 5e-3;
constexpr int kShortTurns = 5, kLongTurns = 2;

using NamedForms = std::vector<std::pair<const char*, std::function<at::Tensor()>>>;

// The first form is the product's, whose result it returns.
at::Tensor Compare(const std::string& kernel, const NamedForms& forms) {
  std::vector<double> best(forms.size(), std::numeric_limits<double>::infinity());
  std::vector<int> counts;
  at::Tensor result;
  for (const auto& [name, form] : forms) {
    at::Tensor y = form();  // Lays weights out.
    const double started = ThreadSeconds();
    y = form();
    const double took = std::max(ThreadSeconds() - started, 1e-7);
    counts.push_back(took > kTellable ? 1 : static_cast<int>(std::ceil(kTellable / took)));
    if (!result.defined()) {
      result = y;
      best[0] = took;
      continue;
    }
    const double difference = ((y - result).abs().max() / result.abs().max()).item<double>();
    TORCH_CHECK(difference < 1e-3, kernel, " as ", name, " differs by ", difference);
  }
  const int turns = best[0] > kLong ? kLongTurns : kShortTurns;
  for (int turn = 0; turn < turns; ++turn) {
    for (size_t i = 0; i < forms.size(); ++i) {
      const double started = ThreadSeconds();
      for (int k = 0; k < counts[i]; ++k) forms[i].second();
      best[i] = std::min(best[i], (ThreadSeconds() - started) / counts[i]);
    }
  }
  for (size_t i = 0; i < forms.size(); ++i) (*comparison)[kernel][forms[i].first] += best[i];
  LaidOutWeights().clear();
  return result;
}

at::Tensor CompareLinear(const at::Tensor& x, const LayerWeight& w, const at::Tensor& added) {
  return Compare("product", {{"own", [&] { return ProductForms().linear(x, w, added); }},
                             {"eager", [&] { return EagerLinear(x, w, added); }},
                             {"onednn", [&] { return OneDnnLinear(x, w, added); }},
                             {"mkl", [&] { return MklLinear(x, w, added); }}});
}

at::Tensor CompareConv(const at::Tensor& x, const LayerWeight& w, const ConvShape& s,
                       const at::Tensor& added) {
  // Both orders are given, not turned: a network of a library's would keep to one.
  const at::Tensor last = x.contiguous(kLast), plain = x.contiguous();
  const at::Tensor added_plain = added.defined() ? added.contiguous() : added;
  const at::Tensor added_last = added.defined() ? added.contiguous(kLast) : added;
  LayerWeight w_last = w;
  w_last.weight = w.weight.contiguous(kLast);
  NamedForms forms{{"own", [&] { return ProductForms().conv(x, w, s, added); }},
                   {"eager", [&] { return EagerConv(plain, w, s, added_plain); }},
                   {"eager, channels last", [&] { return EagerConv(last, w_last, s, added_last); }},
                   {"onednn", [&] { return OneDnnConv(plain, w, s, added_plain); }},
                   {"onednn, channels last", [&] { return OneDnnConv(last, w, s, added_last); }}};
  if (!Is3x3(w, s)) return Compare("conv", forms);
  forms.emplace_back("product", [&] { return ProductConv(x, w, s, added); });
  return Compare("conv3x3", forms);
}

at::Tensor CompareGroupNorm(const at::Tensor& x, int64_t groups, const NormWeight& norm,
                            const at::Tensor& shift, bool silu) {
  const at::Tensor plain = x.contiguous();
  return Compare(
      "group_norm",
      {{"own", [&] { return ProductForms().group_norm(x, groups, norm, shift, silu); }},
       {"eager", [&] { return EagerGroupNorm(plain, groups, norm, shift, silu); }},
       {"eager, channels last", [&] { return EagerGroupNorm(x, groups, norm, shift, silu); }}});
}

at::Tensor CompareLayerNorm(const at::Tensor& x, const NormWeight& norm) {
  return Compare("layer_norm", {{"own", [&] { return ProductForms().layer_norm(x, norm); }},
                                {"eager", [&] { return EagerLayerNorm(x, norm); }}});
}

at::Tensor CompareGeglu(const at::Tensor& x) {
  return Compare("geglu", {{"own", [&] { return ProductForms().geglu(x); }},
                           {"eager", [&] { return EagerGeglu(x); }}});
}

at::Tensor CompareAttention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const at::Tensor& mask) {
  return Compare("attention", {{"own", [&] { return ProductForms().attention(q, k, v, mask); }},
                               {"eager", [&] { return EagerAttention(q, k, v, mask); }},
                               {"matrix", [&] { return MatrixAttention(q, k, v, mask); }}});
}

}  // namespace

void ChooseKernelForms(const std::string& choice) {
  Forms forms = chosen_3x3 = chosen_other = ProductForms();
  std::istringstream parts(choice == "plain" ? "" : choice);
  for (std::string part; std::getline(parts, part, '+');) {
    const size_t equals = part.find('=');
    TORCH_CHECK(equals != std::string::npos, "not kernel=form: ", part);
    Choose(forms, part.substr(0, equals), part.substr(equals + 1));
  }
  kernels::UseForms(forms);
}

KernelSeconds CompareKernelForms(const std::function<at::Tensor()>& work) {
  KernelSeconds seconds;
  comparison = &seconds;
  LaidOutWeights().clear();
  kernels::UseForms({CompareLinear, CompareConv, CompareGroupNorm, CompareLayerNorm, CompareGeglu,
                     CompareAttention});
  work();
  kernels::UseForms(ProductForms());
  comparison = nullptr;
  return seconds;
}

}  // namespace d2g::model
