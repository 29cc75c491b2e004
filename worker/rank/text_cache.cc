#include "worker/rank/text_cache.h"

#include <string_view>
#include <utility>

#include <ATen/ATen.h>

#include "model/files/error.h"

namespace d2g::rank {

std::vector<int64_t> PromptClasses(const std::vector<std::string>& prompts) {
  std::unordered_map<std::string_view, int64_t> first;
  std::vector<int64_t> classes;
  classes.reserve(prompts.size());
  for (const std::string& prompt : prompts) {
    classes.push_back(
        first.try_emplace(prompt, static_cast<int64_t>(classes.size())).first->second);
  }
  return classes;
}

TextCache::TextCache(Encoder encoder, std::vector<std::string> prompts, int64_t max_bytes)
    : encoder_(std::move(encoder)),
      prompts_(std::move(prompts)),
      max_bytes_(max_bytes),
      classes_(PromptClasses(prompts_)) {}

at::Tensor TextCache::Embeddings(const std::vector<int64_t>& positions) {
  std::vector<at::Tensor> rows;
  rows.reserve(positions.size());
  for (const int64_t position : positions) rows.push_back(Embedding(position));
  return at::cat(rows);
}

at::Tensor TextCache::Embedding(int64_t position) {
  if (position < 0 || position >= static_cast<int64_t>(prompts_.size())) {
    model::Fail("prompt position is ", position, "; the list has ", prompts_.size(), " prompts");
  }
  const int64_t key = classes_[position];
  if (const auto known = entries_.find(key); known != entries_.end()) {
    ++hits_;
    recency_.splice(recency_.begin(), recency_, known->second.recency);
    return known->second.embedding;
  }
  ++misses_;
  const at::Tensor embedding = encoder_({prompts_[key]});
  recency_.push_front(key);
  entries_[key] = {embedding, recency_.begin()};
  bytes_ += static_cast<int64_t>(embedding.nbytes());
  while (bytes_ > max_bytes_ && recency_.size() > 1) {
    const auto oldest = entries_.find(recency_.back());
    bytes_ -= static_cast<int64_t>(oldest->second.embedding.nbytes());
    entries_.erase(oldest);
    recency_.pop_back();
  }
  return embedding;
}

}  // namespace d2g::rank
