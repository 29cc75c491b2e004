#include "worker/simulate/teacher_cache.h"

#include <utility>

#include <c10/core/DeviceGuard.h>

#include "absl/strings/str_cat.h"
#include "model/folder/model_folder.h"
#include "services/common/clock.h"
#include "services/common/status_macros.h"
#include "worker/common/torch_status.h"

namespace d2g::simulate {

absl::StatusOr<std::shared_ptr<const Teacher>> TeacherCache::Get(const std::string& path,
                                                                 const std::string& digest,
                                                                 const TeacherOptions& options,
                                                                 const common::Tick& tick) {
  if (options.dtype != at::kFloat && !device_.is_cuda()) {
    return absl::FailedPreconditionError(
        absl::StrCat("solver.compute_dtype ", c10::toString(options.dtype),
                     " needs a GPU; this worker's ", "device is ", device_.str()));
  }
  absl::MutexLock lock(&mutex_);
  if (teacher_ == nullptr || teacher_->digest != digest ||
      TeacherOptions{teacher_->model.options().solver, teacher_->model.options().dtype} !=
          options) {
    // The old one goes first: two may not fit.
    teacher_ = nullptr;
    const absl::Duration start = common::RealClock::Get()->SteadyNow();
    D2G_ASSIGN_OR_RETURN(teacher_, Load(path, digest, options, tick));
    load_seconds_->Observe(absl::ToDoubleSeconds(common::RealClock::Get()->SteadyNow() - start));
  }
  return teacher_;
}

absl::StatusOr<std::shared_ptr<const Teacher>> TeacherCache::Load(const std::string& path,
                                                                  const std::string& digest,
                                                                  const TeacherOptions& options,
                                                                  const common::Tick& tick) const {
  D2G_RETURN_IF_ERROR(model::FindModelFolder(path, digest, tick).status());
  bool cancelled = false;
  const auto progress = [&] {
    cancelled = tick && !tick();
    if (cancelled) throw model::Error("stopped");
  };
  auto loaded = CatchTorch([&]() -> std::shared_ptr<const Teacher> {
    const c10::InferenceMode no_gradients;
    const c10::DeviceGuard on_device(device_);
    auto model = model::TextToImageModel::Load(path, {.device = device_,
                                                      .dtype = options.dtype,
                                                      .solver = options.solver,
                                                      .load_vae = false,
                                                      .keep_weights = false,
                                                      .progress = progress});
    auto latent_shape = model.latent_shape();
    auto unconditional = model.prompts().EncodeNegative(std::nullopt);
    return std::make_shared<const Teacher>(
        Teacher{digest, std::move(latent_shape), std::move(model), std::move(unconditional)});
  });
  if (cancelled) return absl::CancelledError(absl::StrCat("stopped while loading ", path));
  if (!loaded.ok()) return JudgeMissingInput(loaded.status(), {path});
  return loaded;
}

}  // namespace d2g::simulate
