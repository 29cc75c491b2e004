// A U-Net evaluated again and again at one size, as a solver does.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include <ATen/ATen.h>

#include "model/kernels/cuda_graph.h"

namespace d2g::model {

// Whether a GPU is likely to compute an evaluation of so many rows of height x width sooner than
// the CPU has launched its kernels, and whether there are enough evaluations to pay for recording.
bool IsWorthRecording(int64_t rows, int64_t height, int64_t width, int64_t evaluations);

// With a recorder: the first evaluation is plain, the second warms the recorder up, the third is
// recorded, and from then on the record is replayed. If its first replay does not give what a plain
// evaluation gives, and after any error of the recorder, a warning is logged and every evaluation
// is plain. Not thread-safe. For evaluations without gradients.
class UNetEvaluator {
 public:
  // (sample, timestep) -> output. Its other inputs, parameters and conditions, must stay as they
  // are and where they are for as long as the evaluator.
  using Forward = std::function<at::Tensor(const at::Tensor&, const at::Tensor&)>;

  // `recorder` null: every evaluation is plain.
  UNetEvaluator(Forward forward, std::unique_ptr<WorkRecorder> recorder);

  // forward(sample, timestep), in memory of its own. All samples, and all timesteps, must have the
  // shape, dtype and device of the first.
  at::Tensor Evaluate(const at::Tensor& sample, const at::Tensor& timestep);

  // Whether there was a recorder that did not work.
  bool recorder_failed() const { return recorder_failed_; }

 private:
  at::Tensor WarmUp(const at::Tensor& sample, const at::Tensor& timestep);
  at::Tensor Record(const at::Tensor& sample, const at::Tensor& timestep);
  at::Tensor Replay(const at::Tensor& sample, const at::Tensor& timestep);

  const Forward forward_;
  int64_t evaluations_ = 0;
  bool recorder_failed_ = false;
  // Before the tensors, which may lie in its memory.
  std::unique_ptr<WorkRecorder> recorder_;
  // Where the record reads and writes.
  at::Tensor sample_, timestep_, output_;
};

}  // namespace d2g::model
