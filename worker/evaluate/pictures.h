// The pictures that the models make from held-out noise.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/text_to_image.h"
#include "worker/distil/generator.h"
#include "worker/evaluate/held_out.h"

namespace d2g::evaluate {

// Called as work goes on, with the pictures just made (0 within one). It may throw to stop the
// work: the exception passes through.
using Tick = std::function<void(int64_t pictures)>;

// What one model made of every held-out triple.
struct ModelPictures {
  at::Tensor latents;   // [N,C,H,W] fp32
  at::Tensor pictures;  // [N,c,H',W'] fp32 in [-1,1]
};

// Pictures a forward pass holds.
inline constexpr int64_t kEvaluationBatch = 32;

// Embeddings of the prompts [N,L,D], in order.
at::Tensor EncodeAll(const model::TextToImageModel& teacher,
                     const std::vector<std::string>& prompts);

// The stored solutions, decoded.
ModelPictures TeacherSolutions(const model::TextToImageModel& teacher, const HeldOut& held_out,
                               const Tick& tick);

// What the teacher makes in `options.steps` steps from the held-out noise (with guidance, as a user
// would run it).
ModelPictures TeacherPictures(const model::TextToImageModel& teacher, const HeldOut& held_out,
                              const at::Tensor& text, const model::SolverOptions& options,
                              const Tick& tick);

// What the student makes in its one step, without guidance.
ModelPictures StudentPictures(const model::TextToImageModel& teacher,
                              const model::UNet2DConditionModel& student,
                              const distil::OneStepGenerator& conversion, const HeldOut& held_out,
                              const at::Tensor& text, const Tick& tick);

// Side by side: a row per model, `columns` held-out pictures (at most all) that show different
// labels first (`label_of`, -1 for none). uint8 [H,W,channels], small pictures enlarged.
at::Tensor SideBySide(const std::vector<const ModelPictures*>& rows,
                      const std::vector<int64_t>& label_of, int64_t columns);

}  // namespace d2g::evaluate
