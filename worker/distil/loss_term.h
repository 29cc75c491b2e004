// One term of G's loss.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/common/rank_figures.h"
#include "worker/distil/micro_batch.h"

namespace d2g::distil {

// G's loss is a list of these: the backward, the search for numbers that are not finite and the
// figures walk the same list (train_step.h). Immutable: safe to share.
class LossTerm {
 public:
  virtual ~LossTerm() = default;
  LossTerm(const LossTerm&) = delete;
  LossTerm& operator=(const LossTerm&) = delete;

  // What a log line calls it.
  const std::string& name() const { return name_; }
  // The figure under which it is shown, without its weight; its help says what it is.
  FigureName figure() const { return figure_; }
  // Factor in G's loss at step `step`, from 0; where it is 0 the step does not have the term.
  virtual double WeightAt(int64_t /*step*/) const { return weight_; }

  // pictures [B,C,H,W] fp32, G's for the batch's z and text -> [B], with graph to the pictures.
  virtual at::Tensor PerSample(const at::Tensor& pictures, const MicroBatch& batch) const = 0;

 protected:
  LossTerm(std::string name, FigureName figure, double weight)
      : name_(std::move(name)), figure_(figure), weight_(weight) {}

 private:
  const std::string name_;
  const FigureName figure_;
  const double weight_;
};

using LossTerms = std::vector<std::shared_ptr<const LossTerm>>;

}  // namespace d2g::distil
