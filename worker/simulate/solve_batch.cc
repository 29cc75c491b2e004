#include "worker/simulate/solve_batch.h"

#include <cstring>
#include <exception>
#include <optional>
#include <span>

#include <c10/core/DeviceGuard.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "absl/base/const_init.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "model/solver/solver.h"
#include "services/common/clock.h"
#include "services/common/status_macros.h"
#include "services/dataset/latent_codec.h"
#include "services/dataset/noise.h"
#include "services/dataset/prompt_order.h"
#include "worker/common/solver_options.h"
#include "worker/common/torch_status.h"

namespace d2g::simulate {
namespace {

// Thrown through Solve when the caller wants it to end.
struct StoppedError : std::exception {
  const char* what() const noexcept override { return "stopped"; }
};

// [n, C, H, W] on the CPU.
at::Tensor DrawNoise(const common::v1::DatasetRecipe& recipe, const std::vector<int64_t>& indices) {
  at::Tensor noise = at::empty({static_cast<int64_t>(indices.size()), recipe.latent_channels(),
                                recipe.latent_height(), recipe.latent_width()},
                               at::kFloat);
  const int64_t elements = dataset::LatentElements(recipe);
  for (size_t k = 0; k < indices.size(); ++k) {
    dataset::FillNoise(recipe.seed(), indices[k],
                       {noise.data_ptr<float>() + static_cast<int64_t>(k) * elements,
                        static_cast<size_t>(elements)});
  }
  return noise;
}

// One for each GPU, for as long as the process: taken anew for each copy, LibTorch's few streams
// would come round to the one that records CUDA graphs.
c10::Stream CopyStream(at::Device device) {
  static absl::Mutex mutex(absl::kConstInit);
  static auto& streams = *new absl::flat_hash_map<c10::DeviceIndex, c10::Stream>();
  {
    absl::MutexLock lock(&mutex);
    const auto found = streams.find(device.index());
    if (found != streams.end()) return found->second;
  }
  const c10::Stream stream =
      c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device);
  absl::MutexLock lock(&mutex);
  return streams.emplace(device.index(), stream).first->second;
}

}  // namespace

absl::Status CheckRecipe(const common::v1::DatasetRecipe& recipe, const Teacher& teacher) {
  const auto& solver = recipe.solver();
  const std::vector<int64_t> shape = {recipe.latent_channels(), recipe.latent_height(),
                                      recipe.latent_width()};
  if (shape != teacher.latent_shape) {
    return absl::InvalidArgumentError(absl::StrCat("latent shape ", absl::StrJoin(shape, "x"),
                                                   " is not the teacher's ",
                                                   absl::StrJoin(teacher.latent_shape, "x")));
  }
  if (recipe.prompt_count() < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("prompt_count: ", recipe.prompt_count(), " is below 1"));
  }
  if (dataset::BytesOf(recipe.storage_dtype()) == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("storage_dtype: ", static_cast<int>(recipe.storage_dtype()),
                     " is not supported; fp16, bf16 and fp32 are"));
  }
  // Steps and spacing are for the scheduler to judge.
  return CatchTorch([&] {
    const std::optional<std::string> spacing =
        solver.timestep_spacing().empty() ? std::nullopt : std::optional(solver.timestep_spacing());
    const model::SchedulerConfig& config = teacher.model.scheduler_config();
    model::MakeSolver(spacing ? config.WithSpacing(*spacing) : config, solver.steps());
  });
}

absl::StatusOr<SolvedBatch> SolveBatch(const common::v1::DatasetRecipe& recipe,
                                       const Teacher& teacher,
                                       const std::vector<std::string>& prompts,
                                       const std::vector<int64_t>& indices,
                                       const std::function<bool()>& on_step,
                                       SimulateMetrics* metrics) {
  const at::Device device = teacher.model.options().device;
  bool stopped = false;
  const auto step = [&] {
    stopped = !on_step();
    if (stopped) throw StoppedError();
  };
  absl::StatusOr<SolvedBatch> solved = CatchTorch([&] {
    const c10::InferenceMode no_gradients;
    const c10::DeviceGuard on_device(device);
    std::vector<int64_t> prompt_indices;
    std::vector<std::string> texts;
    for (const int64_t index : indices) {
      prompt_indices.push_back(dataset::PromptIndexOf(recipe.seed(), index, recipe.prompt_count()));
      texts.push_back(prompts.at(static_cast<size_t>(prompt_indices.back())));
    }
    // Before anything waits for the device, which may be at the end of the batch before.
    const at::Tensor noise = DrawNoise(recipe, indices);
    DeviceSpan span(device);
    absl::Duration start = common::RealClock::Get()->SteadyNow();
    const model::PromptEmbeddings conditional = teacher.model.prompts().Encode(texts);
    metrics->text_encode_seconds.Observe(
        absl::ToDoubleSeconds(common::RealClock::Get()->SteadyNow() - start));

    // A GPU's first batch loads kernels: the lease must not wait for its first step alone.
    step();

    const model::SolverOptions options = SolverOptionsOf(recipe.solver());
    const double evaluations_a_step =
        static_cast<double>(indices.size()) *
        static_cast<double>(teacher.model.BranchesAt(options.guidance));
    start = common::RealClock::Get()->SteadyNow();
    at::Tensor latents = teacher.model.Solve(
        noise.to(device), conditional, teacher.unconditional, options, [&](int64_t, int64_t) {
          const absl::Duration now = common::RealClock::Get()->SteadyNow();
          metrics->step_seconds.Observe(absl::ToDoubleSeconds(now - start));
          metrics->unet_evaluations.Increment(evaluations_a_step);
          start = now;
          step();
        });
    latents = latents.contiguous();
    span.End();
    return SolvedBatch{indices, std::move(prompt_indices), noise, std::move(latents),
                       std::move(span)};
  });
  if (stopped) return absl::CancelledError("solving was stopped");
  return solved;
}

absl::StatusOr<absl::Duration> Fetch(SolvedBatch& batch) {
  return CatchTorch([&batch] {
    const c10::InferenceMode no_gradients;
    const at::Device device = batch.latents.device();
    if (!device.is_cuda()) return batch.span.Wait();
    // Behind the next batch's work the copy would wait for all of it.
    const c10::StreamGuard aside(CopyStream(device));
    const absl::Duration elapsed = batch.span.Wait();
    batch.latents = batch.latents.cpu();
    return elapsed;
  });
}

absl::StatusOr<std::vector<store::v1::Triple>> MakeTriples(const common::v1::DatasetRecipe& recipe,
                                                           const SolvedBatch& batch) {
  const auto elements = static_cast<size_t>(dataset::LatentElements(recipe));
  if (batch.latents.numel() != static_cast<int64_t>(elements * batch.indices.size())) {
    return absl::InternalError(absl::StrCat("the solver gave ", batch.latents.numel(),
                                            " numbers instead of ",
                                            elements * batch.indices.size()));
  }
  std::vector<store::v1::Triple> triples;
  triples.reserve(batch.indices.size());
  for (size_t k = 0; k < batch.indices.size(); ++k) {
    const std::span x(batch.latents.const_data_ptr<float>() + k * elements, elements);
    const std::span z(batch.noise.const_data_ptr<float>() + k * elements, elements);
    D2G_ASSIGN_OR_RETURN(store::v1::Triple triple,
                         dataset::MakeTriple(batch.indices[k], batch.prompt_indices[k], x, z,
                                             recipe.storage_dtype()));
    const int64_t bad = dataset::FindNonFinite(triple.x(), recipe.storage_dtype());
    if (bad >= 0) {
      // Trying again would give the same: a triple is a function of its recipe.
      return absl::InvalidArgumentError(absl::StrCat(
          "the latent of triple ", batch.indices[k], " has ", x[static_cast<size_t>(bad)],
          " at position ", bad, ", which ", common::v1::DType_Name(recipe.storage_dtype()),
          " does not hold as a finite number"));
    }
    triples.push_back(std::move(triple));
  }
  return triples;
}

}  // namespace d2g::simulate
