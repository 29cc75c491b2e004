// CLIP's byte-level BPE tokenizer, as transformers 4.57.6 and tokenizers 0.22.2 run it, and, where
// these cannot read the folder, as transformers 5.24.0 and tokenizers 0.23.3 do.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "model/tokenizer/tokenizer_settings.h"

namespace d2g::model {

// Immutable after Load; thread-safe.
class ClipTokenizer {
 public:
  // Reads a tokenizer folder: vocab.json and merges.txt (the fast one takes tokenizer.json where it
  // is there), with tokenizer_config.json, special_tokens_map.json and added_tokens.json where they
  // are. `flavour` stands for the class that the folder is read as, kSlow for CLIPTokenizer and
  // kFast for CLIPTokenizerFast. What transformers 5 wrote is read as its one class reads it,
  // whichever of the two is asked for: a folder with tokenizer.json alone for CLIPTokenizer, with a
  // list as extra_special_tokens, or, for CLIPTokenizerFast, with 5's split expression in
  // tokenizer.json. Throws Error naming file and option or line for what is malformed or not
  // supported.
  static ClipTokenizer Load(const std::string& folder,
                            TokenizerFlavour flavour = TokenizerFlavour::kSlow);

  // Reads `component` ("tokenizer" or "tokenizer_2") of a model folder, in the flavour that its
  // model_index.json names. Without that file tokenizer_config.json decides; if that does not say
  // either, the tokenizer is fast only where nothing but a tokenizer.json is there.
  static ClipTokenizer LoadComponent(const std::string& model_folder, const std::string& component);

  ~ClipTokenizer();
  ClipTokenizer(ClipTokenizer&&) noexcept;
  ClipTokenizer& operator=(ClipTokenizer&&) noexcept;

  // What the diffusers pipelines feed the text encoder: start, tokens, end, cut to
  // model_max_length (the end token stays) and padded to it. `text` is UTF-8; a malformed sequence
  // throws Error with its byte offset, and so does a symbol without id if the unk_token has none.
  std::vector<int64_t> Encode(const std::string& text) const;

  // The tokens alone: no start, end, cut or padding; -1 for a symbol without id.
  std::vector<int64_t> Tokenize(const std::string& text) const;

  // What the pipelines make of a prompt before they encode it: an added token that has companions
  // "token_1", "token_2" and so on, the vectors of one textual inversion, is followed by them all.
  // Source: diffusers 0.35.2, loaders/textual_inversion.py.
  std::string MaybeConvertPrompt(const std::string& prompt) const;

  // 77 where the folder does not say one.
  int64_t model_max_length() const;
  int64_t bos_token_id() const;
  int64_t eos_token_id() const;
  int64_t pad_token_id() const;
  // One more than the largest id.
  int64_t vocab_size() const;

 private:
  ClipTokenizer();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace d2g::model
