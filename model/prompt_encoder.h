// Prompts to what the network is told: tokenizers and text encoders of a model folder.
// Source: diffusers 0.35.2, encode_prompt of StableDiffusionPipeline and StableDiffusionXLPipeline.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "model/network/clip_text_model.h"
#include "model/pipeline/pipeline_fit.h"
#include "model/pipeline/pipeline_index.h"
#include "model/tokenizer/clip_tokenizer.h"

namespace d2g::model {

// Embeddings of n prompts, on the model's device and in its dtype.
struct PromptEmbeddings {
  at::Tensor hidden;  // [n, L, D]
  at::Tensor pooled;  // [n, P] for XL models, else undefined
};

// Immutable after Load; thread-safe.
class PromptEncoder {
 public:
  // Reads the sub-folders that `index` names; calls progress after each network. Throws Error
  // naming what is missing or does not fit together.
  static PromptEncoder Load(const std::string& folder, const PipelineIndex& index,
                            const LoadOptions& options, const std::function<void()>& progress);

  // Equal prompts are encoded once. Throws Error for no prompts and for malformed UTF-8.
  PromptEmbeddings Encode(const std::vector<std::string>& prompts) const;

  // One row for the unconditional half of guidance. Without a prompt it is that of "" or, where an
  // XL pipeline says so, zeros.
  PromptEmbeddings EncodeNegative(const std::optional<std::string>& prompt) const;

  // What CheckPipelineFits asks for.
  std::vector<TextFit> Fit() const;

  const ClipTokenizer& tokenizer() const { return tokenizers_.front(); }
  const ClipTextModel& text_encoder() const { return encoders_.front(); }

 private:
  PromptEncoder() = default;
  // One row for each prompt.
  PromptEmbeddings EncodeDistinct(const std::vector<std::string>& prompts) const;

  bool is_xl_ = false;
  bool force_zeros_ = false;
  int64_t pooling_ = -1;  // the encoder whose pooled embedding is told; none: -1
  std::vector<TextComponents> texts_;
  std::vector<ClipTokenizer> tokenizers_;
  std::vector<ClipTextModel> encoders_;
};

}  // namespace d2g::model
