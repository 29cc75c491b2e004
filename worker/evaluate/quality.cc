#include "worker/evaluate/quality.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cctype>
#include <iterator>
#include <map>

#include "model/files/error.h"

namespace d2g::evaluate {
namespace {

std::string LowerCase(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

bool IsLetter(char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0; }

bool HoldsWord(const std::string& text, const std::string& word) {
  for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
    const size_t end = at + word.size();
    if ((at == 0 || !IsLetter(text[at - 1])) && (end == text.size() || !IsLetter(text[end]))) {
      return true;
    }
  }
  return false;
}

at::Tensor Rows(std::span<const int64_t> positions) {
  return at::tensor(at::ArrayRef<int64_t>(positions.data(), positions.size()));
}

}  // namespace

JudgedPictures Judge(const distil::SequentialNet& evaluator, const at::Tensor& pictures,
                     int64_t batch) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> features, labels;
  for (const at::Tensor& part : pictures.split(batch)) {
    const std::vector<at::Tensor> taps = evaluator.Taps(part, {"features", "logits"});
    features.push_back(taps[0].flatten(1).to(at::kCPU));
    labels.push_back(taps[1].argmax(1).to(at::kCPU));
  }
  return {at::cat(features), at::cat(labels)};
}

int64_t LabelOf(const std::string& prompt,
                const std::vector<distil::SequentialNet::Label>& labels) {
  const std::string text = LowerCase(prompt);
  int64_t best = -1;
  size_t length = 0;
  for (size_t i = 0; i < labels.size(); ++i) {
    for (const std::string& word : labels[i].words) {
      if (word.size() > length && HoldsWord(text, LowerCase(word))) {
        best = static_cast<int64_t>(i);
        length = word.size();
      }
    }
  }
  return best;
}

Interval FrechetInterval(const at::Tensor& features, const FeatureMoments& reference,
                         uint64_t seed) {
  const at::Tensor wide = features.to(at::kCPU, at::kDouble);
  return Bootstrap(wide.size(0), seed, [&](std::span<const int64_t> positions) {
    return FrechetDistance(MomentsOf(wide.index_select(0, Rows(positions))), reference);
  });
}

Interval ClassAgreement(const at::Tensor& labels, const std::vector<int64_t>& asked) {
  if (labels.dim() != 1 || labels.size(0) != static_cast<int64_t>(asked.size())) {
    model::Fail("class agreement of ", labels.sizes(), " labels with ", asked.size(), " prompts");
  }
  int64_t right = 0, trials = 0;
  for (size_t i = 0; i < asked.size(); ++i) {
    if (asked[i] < 0) continue;
    ++trials;
    right += labels[static_cast<int64_t>(i)].item<int64_t>() == asked[i];
  }
  if (trials == 0) model::Fail("no prompt names a class that the evaluator knows");
  return WilsonInterval(right, trials);
}

Interval PairedDistance(const at::Tensor& a, const at::Tensor& b, uint64_t seed) {
  if (a.sizes() != b.sizes()) {
    model::Fail("paired distance between latents of shapes ", a.sizes(), " and ", b.sizes());
  }
  const at::Tensor distance =
      (a - b).to(at::kCPU, at::kDouble).square().flatten(1).mean(1).contiguous();
  return MeanInterval({distance.const_data_ptr<double>(), static_cast<size_t>(distance.numel())},
                      seed);
}

int64_t PromptsWithSeveral(const std::vector<int64_t>& prompt_of) {
  std::map<int64_t, int64_t> pictures_of;
  for (const int64_t prompt : prompt_of) ++pictures_of[prompt];
  return std::count_if(pictures_of.begin(), pictures_of.end(),
                       [](const auto& entry) { return entry.second > 1; });
}

Interval Diversity(const at::Tensor& features, const std::vector<int64_t>& prompt_of,
                   uint64_t seed) {
  if (features.size(0) != static_cast<int64_t>(prompt_of.size())) {
    model::Fail("diversity of ", features.size(0), " pictures with ", prompt_of.size(), " prompts");
  }
  std::map<int64_t, std::vector<int64_t>> pictures_of;
  for (size_t i = 0; i < prompt_of.size(); ++i) {
    pictures_of[prompt_of[i]].push_back(static_cast<int64_t>(i));
  }
  const at::Tensor wide = features.to(at::kCPU, at::kDouble);
  std::vector<double> spread;
  for (const auto& [prompt, pictures] : pictures_of) {
    if (pictures.size() > 1) {
      spread.push_back(at::pdist(wide.index_select(0, Rows(pictures))).mean().item<double>());
    }
  }
  if (std::ssize(spread) < kMinDiversityPrompts) {
    model::Fail("diversity needs ", kMinDiversityPrompts, " prompts with 2 pictures each, got ",
                spread.size());
  }
  return MeanInterval(spread, seed);
}

}  // namespace d2g::evaluate
