#include "worker/rank/control_channel.h"

#include <utility>

#include <ATen/ATen.h>

namespace d2g::rank {
namespace {

// Fields of the vector of doubles that is summed.
enum Field : int64_t {
  kStop,
  kValid,
  kSkipped,
  kNotFinite,
  kDataWaits,
  kCommitWaits,
  kHashes,
  kFixedFields
};

// A hash travels as pieces h and their squares: all of n ranks hold the same h exactly when
// n * sum(h^2) = sum(h)^2 (Cauchy-Schwarz). With 16 bits a piece every sum is exact in a double.
constexpr int64_t kHashPieces = 4;
constexpr int64_t kHashBegin = kFixedFields;
constexpr int64_t kMetricsBegin = kHashBegin + 2 * kHashPieces;

}  // namespace

ControlChannel::ControlChannel(collective::ProcessGroup* group,
                               std::vector<std::string> metric_names)
    : group_(group), metric_names_(std::move(metric_names)) {}

ControlResult ControlChannel::Exchange(const ControlMessage& message) {
  const int64_t metrics = static_cast<int64_t>(metric_names_.size());
  at::Tensor fields = at::zeros({kMetricsBegin + 2 * metrics}, at::kDouble);
  double* out = fields.data_ptr<double>();
  out[kStop] = message.stop;
  out[kValid] = static_cast<double>(message.valid);
  out[kSkipped] = static_cast<double>(message.skipped);
  out[kNotFinite] = message.not_finite;
  out[kDataWaits] = message.data_waits;
  out[kCommitWaits] = message.commit_waits;
  out[kHashes] = message.parameter_hash.has_value();
  for (int64_t piece = 0; piece < kHashPieces; ++piece) {
    const double h =
        static_cast<double>((message.parameter_hash.value_or(0) >> (16 * piece)) & 0xFFFF);
    out[kHashBegin + 2 * piece] = h;
    out[kHashBegin + 2 * piece + 1] = h * h;
  }
  for (int64_t i = 0; i < metrics; ++i) {
    const auto found = message.metrics.find(metric_names_[i]);
    if (found == message.metrics.end()) continue;
    out[kMetricsBegin + 2 * i] = found->second;
    out[kMetricsBegin + 2 * i + 1] = 1;
  }

  const at::Tensor on_device = fields.to(group_->device());
  group_->AllReduceSum(on_device);
  const at::Tensor sums = on_device.to(at::kCPU);
  const double* in = sums.data_ptr<double>();
  ControlResult result;
  result.stop = in[kStop] > 0;
  result.valid = static_cast<int64_t>(in[kValid]);
  result.skipped = static_cast<int64_t>(in[kSkipped]);
  result.not_finite = in[kNotFinite] > 0;
  result.data_waits = in[kDataWaits] > 0;
  result.commit_waits = in[kCommitWaits] > 0;
  const double ranks = group_->size();
  result.hashes_agree = in[kHashes] == ranks;
  for (int64_t piece = 0; piece < kHashPieces; ++piece) {
    const double sum = in[kHashBegin + 2 * piece];
    result.hashes_agree &= ranks * in[kHashBegin + 2 * piece + 1] == sum * sum;
  }
  for (int64_t i = 0; i < metrics; ++i) {
    if (in[kMetricsBegin + 2 * i + 1] > 0) {
      result.metrics[metric_names_[i]] = in[kMetricsBegin + 2 * i];
    }
  }
  return result;
}

}  // namespace d2g::rank
