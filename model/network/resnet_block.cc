#include "model/network/resnet_block.h"

#include <algorithm>

namespace d2g::model {

at::Tensor Repeated(const at::Tensor& x, int64_t rows) {
  if (x.size(0) == rows) return x;
  // Unlike repeat, cat leaves channels where they lie in memory.
  return at::cat(std::vector<at::Tensor>(static_cast<size_t>(rows / x.size(0)), x));
}

ResnetBlock::ResnetBlock(ParameterReader& reader, const std::string& name, const ResnetOptions& o)
    : norm1(reader, name + ".norm1", o.groups, o.in_channels, o.eps),
      conv1(reader, name + ".conv1", o.in_channels, o.out_channels, 3, 1, 1),
      norm2(reader, name + ".norm2", o.groups, o.out_channels, o.eps),
      conv2(reader, name + ".conv2", o.out_channels, o.out_channels, 3, 1, 1),
      has_shortcut(o.in_channels != o.out_channels),
      options(o) {
  if (o.time_width > 0) {
    time_emb_proj = Linear(reader, name + ".time_emb_proj", o.time_width,
                           o.scale_shift ? 2 * o.out_channels : o.out_channels);
  }
  if (has_shortcut) {
    conv_shortcut = Conv2d(reader, name + ".conv_shortcut", o.in_channels, o.out_channels, 1);
  }
}

at::Tensor ResnetBlock::operator()(const at::Tensor& x, const at::Tensor& time) const {
  at::Tensor shift;
  if (options.time_width > 0) shift = time_emb_proj(time);

  at::Tensor h = conv1(norm1.Activated(options.activation, x));
  if (shift.defined()) h = Repeated(h, std::max(h.size(0), shift.size(0)));
  if (shift.defined() && options.scale_shift) {
    const std::vector<at::Tensor> halves = shift.unsqueeze(-1).unsqueeze(-1).chunk(2, 1);
    h = Activate(options.activation, norm2(h) * (1 + halves[0]) + halves[1]);
  } else {
    h = norm2.Activated(options.activation, h, shift);
  }
  h = conv2(h, Repeated(has_shortcut ? conv_shortcut(x) : x, h.size(0)));
  return options.output_scale == 1 ? h : h / options.output_scale;
}

}  // namespace d2g::model
