#include "services/dataset/bitmap.h"

#include <bit>

namespace d2g::dataset {

void Bitmap::Set(int64_t position, bool value) {
  char& byte = bytes_[static_cast<size_t>(position / 8)];
  const int bit = 1 << (position % 8);
  byte = static_cast<char>(value ? byte | bit : byte & ~bit);
}

int64_t Bitmap::Count() const {
  int64_t count = 0;
  for (const char byte : bytes_) count += std::popcount(static_cast<unsigned char>(byte));
  return count;
}

bool Bitmap::Assign(const std::string& bytes) {
  if (bytes.size() != bytes_.size()) return false;
  const int64_t used = size_ % 8;
  if (used != 0 && (static_cast<unsigned char>(bytes.back()) >> used) != 0) return false;
  bytes_ = bytes;
  return true;
}

Bitmap Bitmap::Slice(int64_t begin, int64_t end) const {
  Bitmap slice(end - begin);
  for (int64_t at = begin; at < end; ++at) {
    if (Get(at)) slice.Set(at - begin, true);
  }
  return slice;
}

}  // namespace d2g::dataset
