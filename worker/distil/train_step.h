// One optimiser step of Diffusion2GAN on one rank.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "d2g/common/v1/train_spec.pb.h"
#include "model/network/unet_2d_condition.h"
#include "model/weights/safetensors.h"
#include "worker/distil/adamw.h"
#include "worker/distil/discriminator.h"
#include "worker/distil/ema.h"
#include "worker/distil/flat_parameters.h"
#include "worker/distil/generator.h"
#include "worker/distil/loss_term.h"
#include "worker/distil/micro_batch.h"

namespace d2g::distil {

// What an update did.
struct UpdateResult {
  // 2-norm of the reduced gradient before clipping.
  double gradient_norm = 0;
  double learning_rate = 0;
  // The gradient was not finite: parameters, optimiser and EMA are as before. Ranks agree about it
  // because they look at the same reduced gradient.
  bool skipped = false;
};

// What a step did.
struct StepResult {
  // Unset where D does not train.
  std::optional<UpdateResult> discriminator;
  // Unset where D's update was skipped: G is then not trained against it.
  std::optional<UpdateResult> generator;
};

// The two networks that a step trains.
enum class Network : int8_t { kGenerator, kDiscriminator };

// Sums a network's gradients over the ranks, in place.
using Reduce = std::function<void(Network)>;

// The student, its EMA, the discriminator and their optimisers, and the step that trains them.
//
// Losses are sums over this rank's valid triples divided by the count over all ranks, so that
// reduced sums of gradients and of metrics are means over the global batch, however it was cut.
// With one micro-batch G's graph is kept from the forward to the backward; with more, each is
// computed again in G's backward, so that memory holds one graph at a time.
//
// Not thread-safe. Methods throw model::Error for bad shapes and c10::Error from LibTorch.
class TrainStep {
 public:
  // `spec` is normal (services/spec/normal_spec.h). `teacher_unet` is the teacher's U-Net: G, EMA
  // and D start as copies of it in fp32. G's loss is the sum of `regression`, at least one term,
  // and of the adversarial term where the spec has one.
  TrainStep(const common::v1::TrainSpec& spec, const model::UNet2DConditionModel& teacher_unet,
            const OneStepGenerator& conversion, const LossTerms& regression, at::Device device);

  // Does step `step` (from 0), in the order that is part of the method: one forward of G; D's step
  // on the detached pictures; G's step against the new D. `reduce` is called between each backward
  // and its update. `batches` are this rank's part of the global batch and may be none;
  // `valid_count` is the number of triples with weight 1 in the whole of it, at least 1.
  StepResult Run(int64_t step, double valid_count, const std::vector<MicroBatch>& batches,
                 const Reduce& reduce);

  // D's part of the same alone, beside a G that stands still: what a D can learn of a G. REQUIRES:
  // TrainsDiscriminator(step).
  UpdateResult RunDiscriminator(int64_t step, double valid_count,
                                const std::vector<MicroBatch>& batches, const Reduce& reduce);

  // Whether the step trains D: its batches must name their negatives.
  bool TrainsDiscriminator(int64_t step) const;

  // This rank's part of the last step's figures by name (rank_figures.h); summed over ranks they
  // are means. Only those that the step computed, so the same names on every rank that had a
  // micro-batch. Reading waits for the device.
  std::map<std::string, double> Metrics() const;
  // All names that Metrics may have, the same in the same order on every rank.
  std::vector<std::string> MetricNames() const;

  // What is not finite, in loss or gradient, for row `row` of `batch` alone in step `step`:
  // "prediction" (the student's picture or its backward; nothing else is looked at when the picture
  // itself is not finite), "discriminator", and names of G's terms. Empty for a row of weight 0.
  // Leaves all gradients as they are.
  std::vector<std::string> FindNonFinite(int64_t step, const MicroBatch& batch, int64_t row);

  FlatParameters& generator() { return *generator_parameters_; }
  // Requires gan.weight > 0.
  FlatParameters& discriminator() { return *discriminator_parameters_; }
  bool has_discriminator() const { return discriminator_ != nullptr; }

  // Everything to go on from, by the checkpoint file that takes it
  // (services/common/checkpoint_files.h); those of D where there is one. Tensors are copies on
  // the CPU.
  std::map<std::string, model::TensorMap> State() const;
  // Throws model::Error naming the file and tensor that is missing or of another shape.
  void LoadState(const std::map<std::string, model::TensorMap>& state);

 private:
  struct Pending {
    MicroBatch batch;
    at::Tensor pictures;  // G(z, c), with graph when it is the only micro-batch
  };

  void MakeDiscriminator(const model::UNet2DConditionModel& teacher_unet, at::Device device);
  void Begin(int64_t step, double valid_count);
  void GeneratorForward(const std::vector<MicroBatch>& batches);
  UpdateResult StepDiscriminator(const Reduce& reduce);
  // Leaves D's gradient (this rank's part) in its parameters' gradients.
  void DiscriminatorBackward();
  UpdateResult UpdateDiscriminator();
  // Leaves G's gradient (this rank's part) in its parameters' gradients.
  void GeneratorBackward();
  void GeneratorBackward(const Pending& pending);
  // AdamW, then EMA.
  UpdateResult UpdateGenerator();

  at::Tensor Generate(const MicroBatch& batch) const;
  // Calls f with each term that G's loss has in the step, and its weight.
  template <typename F>
  void ForEachTerm(int64_t step, F f) const;
  bool DiscriminatorIsFinite(const MicroBatch& one, const at::Tensor& picture) const;
  void AddMetric(const std::string& name, const at::Tensor& value);
  double WarmedUp(double rate, int64_t first_step) const;
  UpdateResult Update(FlatParameters& parameters, AdamW& optimizer, double learning_rate);

  const common::v1::TrainSpec spec_;
  const OneStepGenerator conversion_;
  LossTerms terms_;
  std::unique_ptr<model::UNet2DConditionModel> generator_;
  std::unique_ptr<FlatParameters> generator_parameters_;
  std::unique_ptr<AdamW> generator_optimizer_;
  std::unique_ptr<Ema> ema_;
  // The three below exist when gan.weight > 0.
  std::shared_ptr<Discriminator> discriminator_;
  std::unique_ptr<FlatParameters> discriminator_parameters_;
  std::unique_ptr<AdamW> discriminator_optimizer_;

  // The step that runs:
  int64_t step_ = 0;
  double valid_count_ = 1;
  std::vector<Pending> pending_;
  std::map<std::string, at::Tensor> metrics_;
};

template <typename F>
void TrainStep::ForEachTerm(int64_t step, F f) const {
  for (const auto& term : terms_) {
    if (const double weight = term->WeightAt(step); weight > 0) f(*term, weight);
  }
}

}  // namespace d2g::distil
