// CLIP's byte-level BPE tokenizer, as transformers 4.57.6 runs it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace d2g::model {

// How text is cleaned before BPE.
enum class TokenizerFlavour {
  kSlow,  // CLIPTokenizer without ftfy: drops control characters, sets CJK characters apart
  kFast,  // CLIPTokenizerFast: NFC, white space, lower case only
};

// Immutable after Load; thread-safe.
class ClipTokenizer {
 public:
  // Reads vocab.json, merges.txt and, where present, tokenizer_config.json,
  // special_tokens_map.json and added_tokens.json of a tokenizer folder. Throws Error naming file
  // and line for what cannot be read, and for a special token that has no id.
  static ClipTokenizer Load(const std::string& folder,
                            TokenizerFlavour flavour = TokenizerFlavour::kSlow);
  ~ClipTokenizer();
  ClipTokenizer(ClipTokenizer&&) noexcept;
  ClipTokenizer& operator=(ClipTokenizer&&) noexcept;

  // What the diffusers pipelines feed the text encoder: start, tokens, end, cut to
  // model_max_length (the end token stays) and padded to it. `text` is UTF-8; a malformed sequence
  // throws Error with its byte offset.
  std::vector<int64_t> Encode(const std::string& text) const;

  // The tokens alone: no start, end, cut or padding.
  std::vector<int64_t> Tokenize(const std::string& text) const;

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
