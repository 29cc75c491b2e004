#include "worker/rank/micro_batches.h"

#include <algorithm>

#include <ATen/ATen.h>

#include "services/dataset/noise.h"

namespace d2g::rank {
namespace {

using distil::NegativeKind;

// Rows [begin, end) of a batch's numbers as [n, C, H, W] on the device.
at::Tensor Rows(const std::vector<float>& numbers, int64_t begin, int64_t end,
                const std::vector<int64_t>& latent_shape, at::Device device) {
  std::vector<int64_t> shape = {end - begin};
  shape.insert(shape.end(), latent_shape.begin(), latent_shape.end());
  int64_t elements = 1;
  for (const int64_t side : latent_shape) elements *= side;
  at::Tensor rows = at::empty(shape, at::kFloat);
  std::copy(numbers.begin() + begin * elements, numbers.begin() + end * elements,
            rows.data_ptr<float>());
  return rows.to(device);
}

void AddNegatives(const RankBatch& batch, int64_t begin, int64_t end,
                  const MicroBatchOptions& options, TextCache* texts, distil::MicroBatch* out) {
  std::vector<int64_t> prompts;
  bool any_text = false;
  bool any_noise = false;
  for (int64_t row = begin; row < end; ++row) {
    const RankSample& sample = batch.samples[row];
    NegativeKind kind =
        distil::NegativeKindAt(batch.first_position + row, options.train.gan().mismatch_weight());
    if ((kind == NegativeKind::kOtherText && sample.other_prompt < 0) ||
        (kind == NegativeKind::kOtherNoise && sample.other_noise_index < 0)) {
      kind = NegativeKind::kGenerated;
    }
    any_text |= kind == NegativeKind::kOtherText;
    any_noise |= kind == NegativeKind::kOtherNoise;
    prompts.push_back(kind == NegativeKind::kOtherText ? sample.other_prompt : sample.prompt);
    out->negatives.push_back(kind);
  }
  if (any_text) out->other_text = texts->Embeddings(prompts).to(options.device, at::kFloat);
  if (!any_noise) return;
  at::Tensor noise = at::zeros(out->z.sizes(), at::kFloat);
  const int64_t elements = noise.numel() / noise.size(0);
  for (int64_t row = begin; row < end; ++row) {
    if (out->negatives[row - begin] != NegativeKind::kOtherNoise) continue;
    dataset::FillNoise(
        options.recipe.seed(), batch.samples[row].other_noise_index,
        {noise.data_ptr<float>() + (row - begin) * elements, static_cast<size_t>(elements)});
  }
  out->other_noise = noise.to(options.device);
}

}  // namespace

std::vector<distil::MicroBatch> MakeMicroBatches(const RankBatch& batch,
                                                 const MicroBatchOptions& options, bool negatives,
                                                 TextCache* texts) {
  const int64_t samples = static_cast<int64_t>(batch.samples.size());
  const int64_t limit = options.train.micro_batch();
  const int64_t step = limit > 0 ? limit : std::max<int64_t>(1, samples);
  const std::vector<int64_t> latent_shape = {options.recipe.latent_channels(),
                                             options.recipe.latent_height(),
                                             options.recipe.latent_width()};
  std::vector<distil::MicroBatch> micro_batches;
  for (int64_t begin = 0; begin < samples; begin += step) {
    const int64_t end = std::min(samples, begin + step);
    distil::MicroBatch out;
    out.z = Rows(batch.z, begin, end, latent_shape, options.device);
    out.x = Rows(batch.x, begin, end, latent_shape, options.device);
    out.weight = Rows(batch.weight, begin, end, {}, options.device);
    std::vector<int64_t> prompts;
    for (int64_t row = begin; row < end; ++row) prompts.push_back(batch.samples[row].prompt);
    out.text = texts->Embeddings(prompts).to(options.device, at::kFloat);
    if (negatives) AddNegatives(batch, begin, end, options, texts, &out);
    micro_batches.push_back(std::move(out));
  }
  return micro_batches;
}

}  // namespace d2g::rank
