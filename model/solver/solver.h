// What turns a network's outputs into a sample, step by step.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/solver/scheduler_config.h"

namespace d2g::model {

// The state of one run; not thread-safe. A run is
//   z = noise * init_noise_sigma()
//   for each i: z = Step(network(ScaleInput(z, i), timesteps()[i]), i, z)
// with every i once, in order. Tensors are [B, ...] on any device; arithmetic is fp32, whatever the
// network computes in, and results are fp32.
class Solver {
 public:
  virtual ~Solver() = default;

  // One entry for each evaluation of the network. heun has two for each step but the last.
  const std::vector<double>& timesteps() const { return timesteps_; }

  virtual double init_noise_sigma() const = 0;
  virtual at::Tensor ScaleInput(const at::Tensor& z, size_t i) const = 0;
  virtual at::Tensor Step(const at::Tensor& output, size_t i, const at::Tensor& z) = 0;

 protected:
  explicit Solver(std::vector<double> timesteps) : timesteps_(std::move(timesteps)) {}

 private:
  std::vector<double> timesteps_;
};

// Throws Error like CheckRun.
std::unique_ptr<Solver> MakeSolver(const SchedulerConfig& config, int64_t steps);

}  // namespace d2g::model
