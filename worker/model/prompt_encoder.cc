#include "worker/model/prompt_encoder.h"

#include <map>
#include <utility>

#include "worker/model/files/error.h"

namespace d2g::model {

PromptEncoder PromptEncoder::Load(const std::string& folder, const PipelineIndex& index,
                                  const LoadOptions& options,
                                  const std::function<void()>& progress) {
  PromptEncoder encoder;
  encoder.is_xl_ = index.is_xl;
  encoder.force_zeros_ = index.is_xl && index.force_zeros_for_empty_prompt;
  encoder.texts_ = index.texts;
  for (const TextComponents& text : index.texts) {
    encoder.tokenizers_.push_back(ClipTokenizer::Load(folder + "/" + text.tokenizer, text.flavour));
    encoder.encoders_.push_back(ClipTextModel::Load(folder + "/" + text.encoder, options));
    if (index.is_xl && text.projects && encoder.pooling_ < 0) {
      encoder.pooling_ = static_cast<int64_t>(encoder.encoders_.size()) - 1;
    }
    if (progress) progress();
  }
  encoder.CheckFits(folder);
  return encoder;
}

void PromptEncoder::CheckFits(const std::string& folder) const {
  const int64_t length = tokenizer().model_max_length();
  for (size_t i = 0; i < tokenizers_.size(); ++i) {
    const TextComponents& names = texts_[i];
    if (tokenizers_[i].model_max_length() != length) {
      Fail(folder, ": model_max_length of ", names.tokenizer, " is ",
           tokenizers_[i].model_max_length(), ", of ", texts_[0].tokenizer, " ", length);
    }
    const ClipTextConfig& config = encoders_[i].config();
    if (names.projects && !config.has_projection) {
      Fail(folder, "/", names.encoder, ": there is no text_projection.weight, which ",
           "CLIPTextModelWithProjection has");
    }
    if (is_xl_ && config.num_hidden_layers < 1) {
      Fail(folder, "/", names.encoder, ": num_hidden_layers is 0: there is no penultimate state");
    }
    if (length > config.max_position_embeddings) {
      Fail(folder, ": model_max_length ", length, " of ", names.tokenizer, " is over ",
           names.encoder, "'s max_position_embeddings ", config.max_position_embeddings);
    }
  }
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
  PromptEmbeddings embeddings = EncodeDistinct({prompt.value_or("")});
  if (!prompt && force_zeros_) {
    embeddings.hidden = at::zeros_like(embeddings.hidden);
    embeddings.pooled = at::zeros_like(embeddings.pooled);
  }
  return embeddings;
}

int64_t PromptEncoder::width() const {
  int64_t width = 0;
  for (const ClipTextModel& encoder : encoders_) width += encoder.config().hidden_size;
  return width;
}

int64_t PromptEncoder::pooled_width() const {
  return pooling_ < 0 ? 0 : encoders_[static_cast<size_t>(pooling_)].config().projection_dim;
}

}  // namespace d2g::model
