#include "worker/evaluate/measures.h"

#include <algorithm>
#include <chrono>

#include "worker/model/error.h"
#include "worker/model/safetensors.h"
#include "worker/recipe/quality.h"

namespace d2g::evaluate {
namespace {

using recipe::Interval;

double Seconds(std::chrono::steady_clock::time_point since) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count();
}

Interval MedianInterval(const std::vector<double>& values) {
  if (values.size() < 2) return {values.at(0), values.at(0), values.at(0)};
  return recipe::Bootstrap(
      static_cast<int64_t>(values.size()), /*seed=*/0, [&](std::span<const int64_t> positions) {
        std::vector<double> drawn;
        for (const int64_t position : positions) {
          drawn.push_back(values[static_cast<size_t>(position)]);
        }
        const auto middle = drawn.begin() + static_cast<ptrdiff_t>(drawn.size() / 2);
        std::nth_element(drawn.begin(), middle, drawn.end());
        return *middle;
      });
}

// Reading a number waits for the device's queue.
void Finish(const at::Tensor& tensor) { tensor.flatten()[0].item<float>(); }

// `make` turns (z, text) of one triple into latents.
template <typename F>
std::vector<NamedInterval> TimeModel(const model::TextToImageModel& teacher,
                                     const HeldOut& held_out, const at::Tensor& text, int repeats,
                                     const Tick& tick, F make) {
  const at::NoGradGuard no_grad;
  std::vector<double> unet, decode, total;
  // The first is a warm-up.
  for (int repeat = 0; repeat <= repeats; ++repeat) {
    const int64_t row = repeat % held_out.size();
    const auto start = std::chrono::steady_clock::now();
    const at::Tensor latents = make(held_out.z.narrow(0, row, 1), text.narrow(0, row, 1));
    Finish(latents);
    const double unet_seconds = Seconds(start);
    const auto decode_start = std::chrono::steady_clock::now();
    Finish(teacher.DecodeToImages(latents));
    const double decode_seconds = Seconds(decode_start);
    tick(0);
    if (repeat == 0) continue;
    unet.push_back(unet_seconds);
    decode.push_back(decode_seconds);
    total.push_back(unet_seconds + decode_seconds);
  }
  return {{"seconds_per_picture", MedianInterval(total)},
          {"unet_seconds", MedianInterval(unet)},
          {"decode_seconds", MedianInterval(decode)}};
}

// Another triple for each, with another prompt as far as there is one within reach.
at::Tensor OtherPrompt(const HeldOut& held_out) {
  const int64_t count = held_out.size();
  std::vector<int64_t> other;
  for (int64_t i = 0; i < count; ++i) {
    int64_t candidate = (i + count / 2) % count;
    while (candidate != i && held_out.prompts[static_cast<size_t>(candidate)] ==
                                 held_out.prompts[static_cast<size_t>(i)]) {
      candidate = (candidate + 1) % count;
    }
    other.push_back(candidate);
  }
  return at::tensor(other);
}

}  // namespace

Evaluator Evaluator::Load(const std::string& folder) {
  const std::string path = folder + "/reference.safetensors";
  const model::TensorMap reference = model::ReadSafetensors(path);
  for (const char* name : {"mean", "cov"}) {
    if (!reference.contains(name)) model::Fail(path, " lacks the tensor ", name);
  }
  recipe::FeatureMoments moments{reference.at("mean").to(at::kDouble),
                                 reference.at("cov").to(at::kDouble)};
  const int64_t width = moments.mean.numel();
  if (moments.mean.dim() != 1 || moments.covariance.sizes() != at::IntArrayRef({width, width})) {
    model::Fail(path, ": mean ", reference.at("mean").sizes(), " and cov ",
                reference.at("cov").sizes(), " do not fit");
  }
  return {recipe::SequentialNet::Load(folder), std::move(moments)};
}

std::vector<int64_t> LabelsOf(const Evaluator& evaluator, const HeldOut& held_out) {
  std::vector<int64_t> labels;
  for (const std::string& prompt : held_out.prompts) {
    labels.push_back(recipe::LabelOf(prompt, evaluator.network.labels()));
  }
  return labels;
}

std::vector<NamedInterval> MeasureQuality(const Evaluator& evaluator, const HeldOut& held_out,
                                          const std::vector<int64_t>& label_of,
                                          const ModelPictures& made, uint64_t seed) {
  const recipe::JudgedPictures judged = recipe::Judge(evaluator.network, made.pictures);
  return {{"frechet_distance", recipe::FrechetInterval(judged.features, evaluator.reference, seed)},
          {"class_agreement", recipe::ClassAgreement(judged.labels, label_of)},
          {"paired_distance", recipe::PairedDistance(made.latents, held_out.x, seed)},
          {"diversity", recipe::Diversity(judged.features, held_out.prompt_of, seed)}};
}

std::vector<NamedInterval> TimeTeacher(const model::TextToImageModel& teacher,
                                       const HeldOut& held_out, const at::Tensor& text,
                                       const model::SolverOptions& options, int repeats,
                                       const Tick& tick) {
  const at::Tensor unconditional = EncodeAll(teacher, {""});
  return TimeModel(teacher, held_out, text, repeats, tick,
                   [&](const at::Tensor& z, const at::Tensor& c) {
                     return teacher.Solve(z, c, unconditional, options);
                   });
}

std::vector<NamedInterval> TimeStudent(const model::TextToImageModel& teacher,
                                       const model::UNet2DConditionModel& student,
                                       const recipe::OneStepGenerator& conversion,
                                       const HeldOut& held_out, const at::Tensor& text, int repeats,
                                       const Tick& tick) {
  return TimeModel(
      teacher, held_out, text, repeats, tick,
      [&](const at::Tensor& z, const at::Tensor& c) { return conversion.Generate(student, z, c); });
}

std::map<std::string, double> MeasureDiscriminator(const recipe::Discriminator& discriminator,
                                                   const HeldOut& held_out, const at::Tensor& text,
                                                   const at::Tensor& student_latents,
                                                   const Tick& tick) {
  const at::NoGradGuard no_grad;
  const int64_t count = held_out.size();
  const at::Tensor other = OtherPrompt(held_out).to(text.device());
  // Shares of `x` with a logit on the side of `real`.
  auto share_right = [&](const at::Tensor& z, const at::Tensor& x, const at::Tensor& c, bool real) {
    int64_t right = 0;
    for (int64_t begin = 0; begin < count; begin += kEvaluationBatch) {
      const int64_t end = std::min(begin + kEvaluationBatch, count);
      const at::Tensor logit = recipe::MeanLogit(discriminator.Forward(
          z.slice(0, begin, end), x.slice(0, begin, end), c.slice(0, begin, end)));
      right += (real ? logit > 0 : logit < 0).sum().item<int64_t>();
      tick(0);
    }
    return static_cast<double>(right) / static_cast<double>(count);
  };
  auto accuracy = [&](const at::Tensor& z, const at::Tensor& c) {
    return std::pair{share_right(z, held_out.x, c, true),
                     share_right(z, student_latents, c, false)};
  };
  const auto [real, generated] = accuracy(held_out.z, text);
  const auto noise = accuracy(held_out.z.roll(1, 0), text);
  const auto words = accuracy(held_out.z, text.index_select(0, other));
  return {{"accuracy", (real + generated) / 2},
          {"real_accuracy", real},
          {"generated_accuracy", generated},
          {"accuracy_noise_shuffled", (noise.first + noise.second) / 2},
          {"accuracy_text_shuffled", (words.first + words.second) / 2}};
}

}  // namespace d2g::evaluate
