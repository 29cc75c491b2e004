#include "model/kernels/packed_weight.h"

#include <ATen/Parallel.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "model/kernels/cpu_kernels.h"
#include "model/kernels/matrix_loops.h"
#include "model/kernels/winograd_loops.h"
#include "model/weights/safetensors.h"

namespace d2g::model {

namespace {

// A product of fewer multiplications is over before a second thread has begun.
constexpr int64_t kWorthThreads = 1 << 20;
// Fewer squares do not make up for the transformation of the weights.
constexpr int64_t kWorthWinograd = 8;
// From this size on huge pages are asked for.
constexpr int64_t kLargeBytes = 4 << 20;

at::Tensor MakePanels(int64_t floats) {
  at::Tensor panels = at::empty({floats}, at::kFloat);
#ifdef MADV_HUGEPAGE
  const auto bytes = static_cast<int64_t>(panels.nbytes());
  if (bytes >= kLargeBytes) {
    const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
    const auto address = reinterpret_cast<uintptr_t>(panels.mutable_data_ptr());
    const uintptr_t first = (address + page - 1) / page * page;
    // Only advice: what it cannot have costs some speed and nothing else.
    ::madvise(reinterpret_cast<void*>(first), static_cast<size_t>(bytes) - (first - address),
              MADV_HUGEPAGE);
  }
#endif
  return panels;
}

// Splits a result of `rows` rows of tiles and `panels` panels into parts of about equal size, one a
// thread, and calls part(first_row, last_row, first_panel, last_panel).
template <typename Part>
void InThreads(int64_t rows, int64_t tile, int64_t panels, int64_t multiplications, Part&& part) {
  const int64_t threads = at::in_parallel_region() ? 1 : at::get_num_threads();
  if (threads == 1 || multiplications < kWorthThreads) {
    part(0, rows, 0, panels);
    return;
  }
  auto share = [](int64_t count, int64_t parts) { return (count + parts - 1) / parts; };
  const int64_t tiles = share(rows, tile);
  int64_t across = 1;
  int64_t best = tiles * panels;
  for (int64_t parts = 1; parts <= threads; ++parts) {
    const int64_t longest = share(panels, parts) * share(tiles, threads / parts);
    if (longest < best) best = longest, across = parts;
  }
  const int64_t down = threads / across;
  at::parallel_for(0, across * down, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t panel = share(panels, across) * (i % across);
      const int64_t row = share(tiles, down) * (i / across) * tile;
      if (row >= rows || panel >= panels) continue;
      part(row, std::min(rows, row + share(tiles, down) * tile), panel,
           std::min(panels, panel + share(panels, across)));
    }
  });
}

void MultiplyInThreads(const Product& product, int64_t rows) {
  InThreads(rows, TileRows(), PanelCount(product.columns), rows * product.inner * product.columns,
            [&](int64_t row, int64_t last_row, int64_t panel, int64_t last_panel) {
              Multiply(product, row, last_row, panel, last_panel);
            });
}

void ConvolveInThreads(const Product& product, int64_t batch, bool winograd) {
  const Rows& rows = product.rows;
  const int64_t squares = winograd && TakesWinograd(rows) ? batch * SquareCount(rows) : 0;
  if (squares < kWorthWinograd) {
    MultiplyInThreads(product, batch * rows.out_height * rows.out_width);
    return;
  }
  InThreads(
      squares, TileRows(), PanelCount(product.columns), squares * product.inner * product.columns,
      [&](int64_t first, int64_t last, int64_t panel, int64_t last_panel) {
        const at::Tensor work = at::empty({WinogradWork(product, last - first)}, at::kFloat);
        MultiplyWinograd(product, first, last, panel, last_panel, work.mutable_data_ptr<float>());
      });
}

}  // namespace

PackedWeight::PackedWeight(at::Tensor weight, at::Tensor bias)
    : weight_(std::move(weight)), bias_(std::move(bias)) {}

void PackedWeight::Pack(bool keep) {
  if (!weight_.defined()) return;
  if (weight_.is_cuda() && weight_.scalar_type() != at::kFloat && weight_.dim() == 4 &&
      weight_.size(2) > 1) {
    // cuDNN's kernels of half precision want the channels last and turn what comes otherwise.
    weight_.set_data(weight_.contiguous(at::MemoryFormat::ChannelsLast));
  }
  if (!weight_.is_cpu() || weight_.scalar_type() != at::kFloat) return;
  TORCH_CHECK(!packed() || weight_.numel() > 0, "a weight that was given up is packed again");
  const at::Tensor weight = weight_.detach().contiguous();
  columns_ = weight.size(0);
  inner_ = weight.numel() / std::max<int64_t>(columns_, 1);
  kernel_ = weight.dim() == 4 ? weight.size(3) : 1;
  const int64_t taps = kernel_ * kernel_;
  panels_ = MakePanels(PackedFloats(inner_, columns_));
  const float* from = weight.const_data_ptr<float>();
  float* to = panels_.mutable_data_ptr<float>();
  at::parallel_for(0, PanelCount(columns_), 1, [&](int64_t begin, int64_t end) {
    PackPanels(from, inner_, columns_, taps, to, begin, end);
  });
  if (IsMapped(weight_)) {
    ReleasePages(weight_);
  } else if (!keep) {
    weight_.set_data(at::empty({0}, weight_.options()));
  }
}

bool PackedWeight::Takes(const at::Tensor& x) const {
  return panels_.defined() && UseCpuKernels(x);
}

Product PackedWeight::ProductInto(const at::Tensor& out, const at::Tensor& added) const {
  Product product{};
  product.packed = panels_.const_data_ptr<float>();
  product.bias = bias_.defined() ? bias_.const_data_ptr<float>() : nullptr;
  product.added = added.defined() ? added.const_data_ptr<float>() : nullptr;
  product.out = out.mutable_data_ptr<float>();
  product.inner = inner_;
  product.columns = columns_;
  product.added_stride = product.out_stride = columns_;
  return product;
}

at::Tensor PackedWeight::Linear(const at::Tensor& x, const at::Tensor& added) const {
  TORCH_CHECK(x.size(-1) == inner_, "a linear layer of ", inner_, " inputs got ", x.sizes());
  const at::Tensor in = x.contiguous();
  std::vector<int64_t> shape = in.sizes().vec();
  shape.back() = columns_;
  at::Tensor out = at::empty(shape, in.options());
  const at::Tensor base = added.defined() ? added.contiguous() : added;
  Product product = ProductInto(out, base);
  product.rows.data = in.const_data_ptr<float>();
  product.rows.stride = inner_;
  MultiplyInThreads(product, inner_ == 0 ? 0 : in.numel() / inner_);
  return out;
}

at::Tensor PackedWeight::Convolve(const at::Tensor& x, const Window& window,
                                  const at::Tensor& added) const {
  TORCH_CHECK(x.dim() == 4 && x.size(1) * kernel_ * kernel_ == inner_, "a convolution of ",
              inner_ / (kernel_ * kernel_), " channels got ", x.sizes());
  const auto channels_last = at::MemoryFormat::ChannelsLast;
  const at::Tensor in = x.contiguous(channels_last);
  at::Tensor out = at::empty({in.size(0), columns_, window.out_height, window.out_width},
                             in.options().memory_format(channels_last));
  const at::Tensor base = added.defined() ? added.contiguous(channels_last) : added;
  Product product = ProductInto(out, base);
  product.rows.data = in.const_data_ptr<float>();
  if (kernel_ == 1 && window.step == 1 && window.padding == 0 && window.up_height == 0) {
    product.rows.stride = inner_;
  } else {
    Rows& rows = product.rows;
    rows.kernel = kernel_;
    rows.step = window.step;
    rows.padding = window.padding;
    rows.channels = in.size(1);
    rows.height = in.size(2);
    rows.width = in.size(3);
    rows.up_height = window.up_height;
    rows.up_width = window.up_width;
    rows.out_height = window.out_height;
    rows.out_width = window.out_width;
  }
  if (product.rows.kernel > 0) {
    ConvolveInThreads(product, in.size(0), window.winograd);
  } else {
    MultiplyInThreads(product, in.size(0) * window.out_height * window.out_width);
  }
  return out;
}

}  // namespace d2g::model
