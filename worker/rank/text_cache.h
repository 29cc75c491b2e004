// Embeddings of prompts, made when first needed.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <string>
#include <unordered_map>
#include <vector>

#include <ATen/core/Tensor.h>

namespace d2g::rank {

// The frozen text encoder runs on the rank; the embeddings used last are kept, up to a number of
// bytes. Each prompt is encoded by itself, so that its embedding does not depend on its neighbours
// nor on what the cache holds: training that goes on from a checkpoint sees the same bits. Not
// thread-safe.
class TextCache {
 public:
  // Prompts -> [prompts, L, D]: TextToImageModel::EncodePrompts.
  using Encoder = std::function<at::Tensor(const std::vector<std::string>&)>;

  // `prompts` is the job's list; samples name positions in it.
  TextCache(Encoder encoder, std::vector<std::string> prompts, int64_t max_bytes);

  // [positions.size(), L, D], the encoder's dtype and device. Throws model::Error for a position
  // outside the list, and what the encoder throws.
  at::Tensor Embeddings(const std::vector<int64_t>& positions);

  // Position of the first prompt with the same text: equal for two positions exactly when their
  // prompts are.
  int64_t ClassOf(int64_t position) const { return classes_[position]; }

  int64_t hits() const { return hits_; }
  int64_t misses() const { return misses_; }
  int64_t bytes() const { return bytes_; }

 private:
  struct Entry {
    at::Tensor embedding;
    std::list<int64_t>::iterator recency;
  };

  at::Tensor Embedding(int64_t position);

  const Encoder encoder_;
  const std::vector<std::string> prompts_;
  const int64_t max_bytes_;
  std::vector<int64_t> classes_;
  // By class; most recently used first in recency_.
  std::unordered_map<int64_t, Entry> entries_;
  std::list<int64_t> recency_;
  int64_t bytes_ = 0;
  int64_t hits_ = 0;
  int64_t misses_ = 0;
};

// ClassOf for each position of `prompts`.
std::vector<int64_t> PromptClasses(const std::vector<std::string>& prompts);

}  // namespace d2g::rank
