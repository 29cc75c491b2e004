#include "model/prompt_encoder.h"

#include <ATen/core/grad_mode.h>

#include <map>
#include <utility>

#include "model/files/error.h"
#include "model/network/no_history.h"

namespace d2g::model {

PromptEncoder PromptEncoder::Load(const std::string& folder, const PipelineIndex& index,
                                  const LoadOptions& options,
                                  const std::function<void()>& progress) {
  PromptEncoder encoder;
  encoder.is_xl_ = index.is_xl;
  encoder.force_zeros_ = index.is_xl && index.force_zeros_for_empty_prompt;
  encoder.texts_ = index.texts;
  encoder.pooling_ = PoolingEncoder(index);
  for (const TextComponents& text : index.texts) {
    encoder.tokenizers_.push_back(ClipTokenizer::Load(folder + "/" + text.tokenizer, text.flavour));
    encoder.encoders_.push_back(ClipTextModel::Load(folder + "/" + text.encoder, options));
    if (progress) progress();
  }
  CheckTextsFit(folder, index, encoder.Fit());
  return encoder;
}

std::vector<TextFit> PromptEncoder::Fit() const {
  std::vector<TextFit> texts;
  for (size_t i = 0; i < texts_.size(); ++i) {
    texts.push_back({texts_[i], tokenizers_[i].model_max_length(), encoders_[i].config()});
  }
  return texts;
}

PromptEmbeddings PromptEncoder::EncodeDistinct(const std::vector<std::string>& prompts) const {
  PromptEmbeddings embeddings;
  std::vector<at::Tensor> hidden;
  for (size_t i = 0; i < encoders_.size(); ++i) {
    std::vector<int64_t> ids;
    for (const std::string& prompt : prompts) {
      const std::vector<int64_t> tokens =
          tokenizers_[i].Encode(tokenizers_[i].MaybeConvertPrompt(prompt));
      ids.insert(ids.end(), tokens.begin(), tokens.end());
    }
    const ClipTextOutput output =
        encoders_[i].Run(at::tensor(at::ArrayRef<int64_t>(ids), at::kLong)
                             .view({-1, tokenizers_[i].model_max_length()}));
    hidden.push_back(is_xl_ ? output.penultimate_hidden_state : output.last_hidden_state);
    if (static_cast<int64_t>(i) == pooling_) embeddings.pooled = output.text_embeds;
  }
  embeddings.hidden = at::cat(hidden, -1);
  return embeddings;
}

PromptEmbeddings PromptEncoder::Encode(const std::vector<std::string>& prompts) const {
  const at::NoGradGuard no_grad;
  const NoHistory no_history;
  if (prompts.empty()) Fail("no prompt given");
  std::map<std::string, int64_t> rows;
  std::vector<std::string> distinct;
  std::vector<int64_t> row_of;
  for (const std::string& prompt : prompts) {
    const auto [it, is_new] = rows.try_emplace(prompt, static_cast<int64_t>(rows.size()));
    if (is_new) distinct.push_back(prompt);
    row_of.push_back(it->second);
  }
  PromptEmbeddings embeddings = EncodeDistinct(distinct);
  const at::Tensor order =
      at::tensor(at::ArrayRef<int64_t>(row_of), at::kLong).to(embeddings.hidden.device());
  embeddings.hidden = embeddings.hidden.index_select(0, order);
  if (embeddings.pooled.defined()) embeddings.pooled = embeddings.pooled.index_select(0, order);
  return embeddings;
}

PromptEmbeddings PromptEncoder::EncodeNegative(const std::optional<std::string>& prompt) const {
  const at::NoGradGuard no_grad;
  const NoHistory no_history;
  PromptEmbeddings embeddings = EncodeDistinct({prompt.value_or("")});
  if (!prompt && force_zeros_) {
    embeddings.hidden = at::zeros_like(embeddings.hidden);
    embeddings.pooled = at::zeros_like(embeddings.pooled);
  }
  return embeddings;
}

}  // namespace d2g::model
