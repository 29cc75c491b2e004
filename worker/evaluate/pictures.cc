#include "worker/evaluate/pictures.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <set>

#include "model/png.h"

namespace d2g::evaluate {
namespace {

// Pictures smaller than this are enlarged in the side-by-side picture.
constexpr int64_t kShownSide = 96;

// Applies f to batches of [begin, end) and decodes what it returns.
template <typename F>
ModelPictures InBatches(const model::TextToImageModel& teacher, int64_t count, const Tick& tick,
                        F f) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> latents, pictures;
  for (int64_t begin = 0; begin < count; begin += kEvaluationBatch) {
    const int64_t end = std::min(begin + kEvaluationBatch, count);
    latents.push_back(f(begin, end));
    tick(0);
    pictures.push_back(teacher.DecodeToImages(latents.back()));
    tick(end - begin);
  }
  return {at::cat(latents), at::cat(pictures)};
}

// Different labels first, each time the next picture of a label not yet shown in this round.
std::vector<int64_t> ChooseColumns(const std::vector<int64_t>& label_of, size_t columns) {
  std::vector<int64_t> chosen;
  std::vector<bool> taken(label_of.size());
  while (chosen.size() < std::min(columns, label_of.size())) {
    std::vector<std::pair<int64_t, int64_t>> round;  // label, position
    std::set<int64_t> seen;
    for (size_t i = 0; i < label_of.size(); ++i) {
      if (!taken[i] && seen.insert(label_of[i]).second) {
        round.emplace_back(label_of[i], static_cast<int64_t>(i));
      }
    }
    std::sort(round.begin(), round.end());
    for (const auto& [label, position] : round) {
      if (chosen.size() == columns) break;
      taken[static_cast<size_t>(position)] = true;
      chosen.push_back(position);
    }
  }
  return chosen;
}

}  // namespace

at::Tensor EncodeAll(const model::TextToImageModel& teacher,
                     const std::vector<std::string>& prompts) {
  const at::NoGradGuard no_grad;
  return teacher.EncodePrompts(prompts);
}

ModelPictures TeacherSolutions(const model::TextToImageModel& teacher, const HeldOut& held_out,
                               const Tick& tick) {
  return InBatches(teacher, held_out.size(), tick,
                   [&](int64_t begin, int64_t end) { return held_out.x.slice(0, begin, end); });
}

ModelPictures TeacherPictures(const model::TextToImageModel& teacher, const HeldOut& held_out,
                              const at::Tensor& text, const model::SolverOptions& options,
                              const Tick& tick) {
  const at::Tensor unconditional = EncodeAll(teacher, {""});
  return InBatches(teacher, held_out.size(), tick, [&](int64_t begin, int64_t end) {
    return teacher.Solve(held_out.z.slice(0, begin, end), text.slice(0, begin, end), unconditional,
                         options, [&](int64_t, int64_t) { tick(0); });
  });
}

ModelPictures StudentPictures(const model::TextToImageModel& teacher,
                              const model::UNet2DConditionModel& student,
                              const distil::OneStepGenerator& conversion, const HeldOut& held_out,
                              const at::Tensor& text, const Tick& tick) {
  return InBatches(teacher, held_out.size(), tick, [&](int64_t begin, int64_t end) {
    return conversion.Generate(student, held_out.z.slice(0, begin, end), text.slice(0, begin, end));
  });
}

at::Tensor SideBySide(const std::vector<const ModelPictures*>& rows,
                      const std::vector<int64_t>& label_of, int64_t columns) {
  const std::vector<int64_t> chosen = ChooseColumns(label_of, static_cast<size_t>(columns));
  const at::Tensor positions = at::tensor(chosen);
  std::vector<at::Tensor> shown;
  for (const ModelPictures* row : rows) {
    shown.push_back(row->pictures.to(at::kCPU).index_select(0, positions));
  }
  at::Tensor pictures = at::cat(shown);
  const int64_t factor = std::max<int64_t>(1, kShownSide / pictures.size(2));
  pictures = pictures.repeat_interleave(factor, 2).repeat_interleave(factor, 3);
  return model::MakeGrid(model::TextToImageModel::ToBytes(pictures),
                         static_cast<int64_t>(chosen.size()));
}

}  // namespace d2g::evaluate
