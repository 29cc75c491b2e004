// One optimiser step of Diffusion2GAN on one rank.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/network/unet_2d_condition.h"
#include "model/weights/safetensors.h"
#include "worker/distil/adamw.h"
#include "worker/distil/discriminator.h"
#include "worker/distil/ema.h"
#include "worker/distil/flat_parameters.h"
#include "worker/distil/generator.h"
#include "worker/distil/regression.h"

namespace d2g::distil {

// How the learning rate goes after the warm-up.
enum class Schedule { kConstant, kCosine };

// Limit of mismatch_weight: enough generated negatives must be left.
inline constexpr double kMaxMismatchWeight = 0.4;

// The adversarial term. All steps count from 0.
struct AdversarialOptions {
  // lambda in G's loss; 0 leaves D out altogether.
  double weight = 0;
  // First step whose G loss has the adversarial term.
  int64_t start_step = 0;
  // First step that trains D; at most start_step.
  int64_t discriminator_start_step = 0;
  double learning_rate = 5e-4;
  // Learning rate of the part of D that is the teacher's U-Net; learning_rate is that of the layers
  // D adds to it, which start at zero and must move much faster: at one common rate the U-Net's
  // features are gone before the heads can read them.
  double backbone_learning_rate = 5e-5;
  // Last steps of the run, over which both rates fall linearly to 0; 0: they stay constant. At full
  // rate D follows G, but its threshold, logit 0, swings from step to step.
  int64_t decay_steps = 0;
  // Decoder scales with a readout head, counted from the finest; 0: all.
  int output_scales = 0;
  // Share of the triples whose negative is the solution with another prompt, and as large a share
  // with another noise; 0 to kMaxMismatchWeight. The others' negatives are generated.
  double mismatch_weight = 0;
};

struct TrainStepOptions {
  // Steps in all: where the cosine and D's decay end.
  int64_t steps = 1;
  double learning_rate = 5e-4;
  // Steps of linear warm-up, for G and, from its own first step, for D.
  int64_t warmup_steps = 0;
  // G's schedule; D's rates stay where the warm-up ends until gan.decay_steps begin.
  Schedule schedule = Schedule::kConstant;
  double weight_decay = 0;
  // Limit of the 2-norm of G's and of D's gradient; 0: none.
  double clip_norm = 1;
  double ema_decay = 0.99;
  AdversarialOptions gan;
  // Seed of the first weights of D's heads: the same on all ranks.
  uint64_t seed = 0;
};

// What D's negative of a triple is.
enum class NegativeKind : int8_t {
  kGenerated,   // (z, G(z, c), c)
  kOtherText,   // (z, x, c') with another triple's prompt
  kOtherNoise,  // (z', x, c) with another triple's noise
};

// The negative of the triple at `position` of the global batch: each mismatched kind gets a share
// of `mismatch_weight`, spread evenly over the positions, the same at any number of ranks.
NegativeKind NegativeKindAt(int64_t position, double mismatch_weight);

// Triples that go through the networks together. All tensors fp32, on the networks' device.
struct MicroBatch {
  at::Tensor z;     // [B,C,H,W] noise
  at::Tensor x;     // [B,C,H,W] the teacher's solution
  at::Tensor text;  // [B,L,D] embedding of the prompt
  // [B] 1 for a triple that counts, 0 for one that is skipped (its x may hold anything).
  at::Tensor weight;
  // Only read where D trains: its negatives, and for the rows that need them the other triple's
  // text [B,L,D] and noise [B,C,H,W] (other rows may hold anything finite; undefined when no row
  // needs them).
  std::vector<NegativeKind> negatives;
  at::Tensor other_text;
  at::Tensor other_noise;
};

// What an update did.
struct UpdateResult {
  // 2-norm of the reduced gradient before clipping.
  double gradient_norm = 0;
  double learning_rate = 0;
  // The gradient was not finite: parameters, optimiser and EMA are as before. Ranks agree about it
  // because they look at the same reduced gradient.
  bool skipped = false;
};

// The student, its EMA, the discriminator and their optimisers, and the step that trains them. The
// order of a step is part of the method: one forward of G; D's step on the detached pictures; G's
// step against the new D. The caller reduces in between:
//
//   step.Begin(k, valid_count_over_all_ranks, micro_batches);
//   for (batch : micro_batches) step.GeneratorForward(batch);
//   if (step.trains_discriminator()) {
//     step.DiscriminatorBackward();
//     AllReduceSum(step.discriminator().gradients());
//     if (step.UpdateDiscriminator().skipped) return;
//   }
//   step.GeneratorBackward();
//   AllReduceSum(step.generator().gradients());
//   step.UpdateGenerator();
//
// Losses are sums over this rank's valid triples divided by the count over all ranks, so that
// reduced sums of gradients and of metrics are means over the global batch, however it was cut.
// With one micro-batch G's graph is kept from the forward to the backward; with more, each is
// computed again in GeneratorBackward, so that memory holds one graph at a time.
//
// Not thread-safe. Methods throw model::Error for bad shapes and c10::Error from LibTorch.
class TrainStep {
 public:
  // `teacher_unet` is the teacher's U-Net: G, EMA and D start as copies of it in fp32.
  TrainStep(const TrainStepOptions& options, const model::UNet2DConditionModel& teacher_unet,
            const OneStepGenerator& conversion,
            std::vector<std::shared_ptr<const RegressionTerm>> regression, at::Device device);

  // Opens step `step` (from 0). `valid_count`: triples with weight 1 in the whole global batch;
  // at least 1. `micro_batches`: GeneratorForward calls to come on this rank; may be 0.
  void Begin(int64_t step, double valid_count, int micro_batches);
  void GeneratorForward(const MicroBatch& batch);

  bool trains_discriminator() const;
  bool uses_adversarial_term() const;
  // Leaves D's gradient (this rank's part) in discriminator().gradients().
  void DiscriminatorBackward();
  UpdateResult UpdateDiscriminator();
  // Leaves G's gradient (this rank's part) in generator().gradients().
  void GeneratorBackward();
  // AdamW, then EMA.
  UpdateResult UpdateGenerator();

  // This rank's part of the step's metrics by name; summed over ranks they are means: "loss" (G's
  // whole), one per regression term, "adversarial", "discriminator_loss", "discriminator_accuracy"
  // (real and negative triples told right). Only those that the step computed, so the same names on
  // every rank that had a micro-batch. Reading waits for the device.
  std::map<std::string, double> Metrics() const;

  // Terms that are not finite, in loss or gradient, for row `row` of `batch` alone, in the step
  // that Begin opened: "prediction" (the student's picture or its backward; nothing else is looked
  // at when the picture itself is not finite), "discriminator", the regression terms' names and
  // "adversarial". Empty for a row of weight 0. Leaves all gradients as they are.
  std::vector<std::string> FindNonFinite(const MicroBatch& batch, int64_t row);

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

  at::Tensor Generate(const MicroBatch& batch) const;
  bool DiscriminatorIsFinite(const MicroBatch& one, const at::Tensor& picture);
  void AddMetric(const std::string& name, const at::Tensor& value);
  void GeneratorBackward(const Pending& pending);
  double LearningRate(double base, int64_t first_step) const;
  UpdateResult Update(FlatParameters& parameters, AdamW& optimizer, double learning_rate);

  const TrainStepOptions options_;
  const OneStepGenerator conversion_;
  const std::vector<std::shared_ptr<const RegressionTerm>> regression_;
  std::unique_ptr<model::UNet2DConditionModel> generator_;
  std::unique_ptr<FlatParameters> generator_parameters_;
  std::unique_ptr<AdamW> generator_optimizer_;
  std::unique_ptr<Ema> ema_;
  // The four below exist when gan.weight > 0.
  std::unique_ptr<Discriminator> discriminator_;
  std::unique_ptr<FlatParameters> discriminator_parameters_;
  std::unique_ptr<AdamW> discriminator_optimizer_;

  int64_t step_ = 0;
  double valid_count_ = 1;
  int micro_batches_ = 0;
  std::vector<Pending> pending_;
  std::map<std::string, at::Tensor> metrics_;
};

}  // namespace d2g::distil
