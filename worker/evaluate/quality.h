// Measures of a one-step model against its teacher and against real pictures.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/distil/sequential_net.h"
#include "worker/evaluate/frechet.h"
#include "worker/evaluate/intervals.h"

namespace d2g::evaluate {

// What the evaluator sees in a set of pictures.
struct JudgedPictures {
  at::Tensor features;  // [N,D] fp32
  at::Tensor labels;    // [N] int64, the class it would name
};

// pictures [N,C,H,W] in [-1,1]. Runs without gradients, `batch` pictures at a time.
JudgedPictures Judge(const distil::SequentialNet& evaluator, const at::Tensor& pictures,
                     int64_t batch = 128);

// The label that a prompt asks for: the one with the longest of its words in the prompt, words
// being compared without case between non-letters. -1 when there is none.
int64_t LabelOf(const std::string& prompt, const std::vector<distil::SequentialNet::Label>& labels);

// Frechet distance to `reference`, with a bootstrap interval over the pictures.
Interval FrechetInterval(const at::Tensor& features, const FeatureMoments& reference,
                         uint64_t seed);

// Share of pictures with the label asked for (-1: left out), with Wilson's interval. Throws
// model::Error when no prompt asks for a label.
Interval ClassAgreement(const at::Tensor& labels, const std::vector<int64_t>& asked);

// Mean over pictures of the mean squared difference of latents, with a bootstrap interval.
// a, b [N,C,H,W].
Interval PairedDistance(const at::Tensor& a, const at::Tensor& b, uint64_t seed);

// Prompts with several pictures that a diversity needs.
inline constexpr int64_t kMinDiversityPrompts = 2;
// How many there are.
int64_t PromptsWithSeveral(const std::vector<int64_t>& prompt_of);

// Mean over prompts of the mean distance between the features of pictures of the same prompt, with
// a bootstrap interval over the prompts. Prompts with one picture are left out; throws model::Error
// when fewer than kMinDiversityPrompts have more.
Interval Diversity(const at::Tensor& features, const std::vector<int64_t>& prompt_of,
                   uint64_t seed);

}  // namespace d2g::evaluate
