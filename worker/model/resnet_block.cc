#include "worker/model/resnet_block.h"

namespace d2g::model {

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
  if (shift.defined() && options.scale_shift) {
    const std::vector<at::Tensor> halves = shift.unsqueeze(-1).unsqueeze(-1).chunk(2, 1);
    h = Activate(options.activation, norm2(h) * (1 + halves[0]) + halves[1]);
  } else {
    h = norm2.Activated(options.activation, h, shift);
  }
  h = conv2(h, has_shortcut ? conv_shortcut(x) : x);
  return options.output_scale == 1 ? h : h / options.output_scale;
}

}  // namespace d2g::model
