#include "worker/evaluate/measures.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <chrono>

#include "model/check/network_folders.h"
#include "model/files/error.h"
#include "model/network/parameters.h"
#include "model/weights/safetensors.h"
#include "worker/evaluate/quality.h"

namespace d2g::evaluate {
namespace {

using evaluate::Interval;

double Seconds(std::chrono::steady_clock::time_point since) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count();
}

Interval MedianInterval(const std::vector<double>& values) {
  if (values.size() < 2) return {values.at(0), values.at(0), values.at(0)};
  return evaluate::Bootstrap(
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
  model::CheckReference(model::StoredTensorsOf(reference), path);
  evaluate::FeatureMoments moments{reference.at("mean").to(at::kDouble),
                                   reference.at("cov").to(at::kDouble)};
  return {distil::SequentialNet::Load(folder), std::move(moments)};
}

std::vector<int64_t> LabelsOf(const Evaluator& evaluator, const HeldOut& held_out) {
  std::vector<int64_t> labels;
  for (const std::string& prompt : held_out.prompts) {
    labels.push_back(evaluate::LabelOf(prompt, evaluator.network.labels()));
  }
  return labels;
}

std::vector<NamedInterval> MeasureQuality(const Evaluator& evaluator, const HeldOut& held_out,
                                          const std::vector<int64_t>& label_of,
                                          const ModelPictures& made, uint64_t seed) {
  const evaluate::JudgedPictures judged = evaluate::Judge(evaluator.network, made.pictures);
  std::vector<NamedInterval> measures = {
      {"frechet_distance", evaluate::FrechetInterval(judged.features, evaluator.reference, seed)}};
  if (std::any_of(label_of.begin(), label_of.end(), [](int64_t label) { return label >= 0; })) {
    measures.push_back({"class_agreement", evaluate::ClassAgreement(judged.labels, label_of)});
  }
  measures.push_back({"paired_distance", evaluate::PairedDistance(made.latents, held_out.x, seed)});
  if (evaluate::PromptsWithSeveral(held_out.prompt_of) >= evaluate::kMinDiversityPrompts) {
    measures.push_back(
        {"diversity", evaluate::Diversity(judged.features, held_out.prompt_of, seed)});
  }
  return measures;
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
                                       const distil::OneStepGenerator& conversion,
                                       const HeldOut& held_out, const at::Tensor& text, int repeats,
                                       const Tick& tick) {
  return TimeModel(
      teacher, held_out, text, repeats, tick,
      [&](const at::Tensor& z, const at::Tensor& c) { return conversion.Generate(student, z, c); });
}

std::map<std::string, double> MeasureDiscriminator(const distil::Discriminator& discriminator,
                                                   const HeldOut& held_out, const at::Tensor& text,
                                                   const at::Tensor& student_latents,
                                                   const Tick& tick) {
  const at::NoGradGuard no_grad;
  const int64_t count = held_out.size();
  const at::Tensor other = OtherPrompt(held_out).to(text.device());
  auto logits = [&](const at::Tensor& z, const at::Tensor& x, const at::Tensor& c) {
    std::vector<at::Tensor> parts;
    for (int64_t begin = 0; begin < count; begin += kEvaluationBatch) {
      const int64_t end = std::min(begin + kEvaluationBatch, count);
      parts.push_back(distil::MeanLogit(discriminator.Forward(
          z.slice(0, begin, end), x.slice(0, begin, end), c.slice(0, begin, end))));
      tick(0);
    }
    return at::cat(parts);
  };
  auto share = [](const at::Tensor& right) { return right.to(at::kDouble).mean().item<double>(); };
  std::map<std::string, double> shares;
  auto measure = [&](const at::Tensor& z, const at::Tensor& c, const std::string& shuffled) {
    const at::Tensor solution = logits(z, held_out.x, c), student = logits(z, student_latents, c);
    const double real = share(solution > 0), generated = share(student < 0);
    shares["accuracy" + shuffled] = (real + generated) / 2;
    shares["pair_accuracy" + shuffled] = share(solution > student);
    if (shuffled.empty()) {
      shares["real_accuracy"] = real;
      shares["generated_accuracy"] = generated;
    }
  };
  measure(held_out.z, text, "");
  measure(held_out.z.roll(1, 0), text, "_noise_shuffled");
  measure(held_out.z, text.index_select(0, other), "_text_shuffled");
  return shares;
}

}  // namespace d2g::evaluate
