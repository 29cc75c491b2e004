#include "model/network/unet_evaluator.h"

#include <exception>
#include <utility>

#include <c10/util/Exception.h>

namespace d2g::model {

namespace {

// An estimate: at 64 x 64, Stable Diffusion's 512 px, a current GPU computes two rows (one sample
// with guidance) in about the time of their launches, and four keep it busy.
constexpr int64_t kMaxRecordedPositions = int64_t{4} * 64 * 64;
// An estimate, too: recording and the check of the first replay cost a few evaluations.
constexpr int64_t kMinRecordedEvaluations = 12;

// Limit of max|a - b| / max|b|: the same kernels may add up in another order.
double MaxReplayDifference(at::ScalarType dtype) { return dtype == at::kFloat ? 1e-4 : 1e-2; }

double RelativeDifference(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor wide = b.to(at::kFloat);
  const auto difference = (a.to(at::kFloat) - wide).abs().max().item<double>();
  return difference == 0 ? 0 : difference / wide.abs().max().item<double>();
}

}  // namespace

bool IsWorthRecording(int64_t rows, int64_t height, int64_t width, int64_t evaluations) {
  return rows * height * width <= kMaxRecordedPositions && evaluations >= kMinRecordedEvaluations;
}

UNetEvaluator::UNetEvaluator(Forward forward, std::unique_ptr<WorkRecorder> recorder)
    : forward_(std::move(forward)), recorder_(std::move(recorder)) {}

at::Tensor UNetEvaluator::Evaluate(const at::Tensor& sample, const at::Tensor& timestep) {
  const int64_t turn = evaluations_++;
  if (!recorder_ || turn == 0) return forward_(sample, timestep);
  try {
    if (turn == 1) return WarmUp(sample, timestep);
    if (turn == 2) return Record(sample, timestep);
    return Replay(sample, timestep);
  } catch (const std::exception& error) {
    const auto* torch = dynamic_cast<const c10::Error*>(&error);
    TORCH_WARN("evaluations are not recorded on ", sample.device(), ": ",
               torch != nullptr ? torch->what_without_backtrace() : error.what());
  }
  output_.reset();
  recorder_.reset();
  recorder_failed_ = true;
  return forward_(sample, timestep);
}

at::Tensor UNetEvaluator::WarmUp(const at::Tensor& sample, const at::Tensor& timestep) {
  sample_ = sample.clone();
  timestep_ = timestep.clone();
  recorder_->WarmUp([this] { output_ = forward_(sample_, timestep_); });
  at::Tensor output = output_.clone();
  output_.reset();
  return output;
}

at::Tensor UNetEvaluator::Record(const at::Tensor& sample, const at::Tensor& timestep) {
  const at::Tensor plain = forward_(sample, timestep);
  recorder_->Record([this] { output_ = forward_(sample_, timestep_); });
  const at::Tensor replayed = Replay(sample, timestep);
  const double difference = RelativeDifference(replayed, plain);
  TORCH_CHECK(difference <= MaxReplayDifference(plain.scalar_type()),
              "a replay differs from an evaluation by ", difference, " of its largest value");
  return plain;
}

at::Tensor UNetEvaluator::Replay(const at::Tensor& sample, const at::Tensor& timestep) {
  sample_.copy_(sample);
  timestep_.copy_(timestep);
  recorder_->Replay();
  return output_.clone();
}

}  // namespace d2g::model
