#include "model/config/parameter_list.h"

namespace d2g::model {

void ParameterList::Resnet(const std::string& name, int64_t in, int64_t out, int64_t time_width,
                           bool scale_shift) {
  Norm(name + ".norm1", in);
  Conv(name + ".conv1", in, out, 3);
  if (time_width > 0) Linear(name + ".time_emb_proj", time_width, scale_shift ? 2 * out : out);
  Norm(name + ".norm2", out);
  Conv(name + ".conv2", out, out, 3);
  if (in != out) Conv(name + ".conv_shortcut", in, out, 1);
}

}  // namespace d2g::model
