// One bit a triple of a range, as presence goes over the wire and onto disk.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace d2g::dataset {

// A bitmap over the positions of a block. Thread-compatible.
class Bitmap {
 public:
  explicit Bitmap(int64_t size) : size_(size), bytes_(static_cast<size_t>((size + 7) / 8), '\0') {}

  bool Get(int64_t position) const {
    return (bytes_[static_cast<size_t>(position / 8)] >> (position % 8) & 1) != 0;
  }
  void Set(int64_t position, bool value);
  int64_t Count() const;
  int64_t size() const { return size_; }
  // Bit k is byte k/8, bit k%8, least significant first.
  const std::string& bytes() const { return bytes_; }
  // False when `bytes` has another length or bits beyond the size.
  bool Assign(const std::string& bytes);
  // Positions [begin, end) as a bitmap of their own.
  Bitmap Slice(int64_t begin, int64_t end) const;

 private:
  int64_t size_;
  std::string bytes_;
};

}  // namespace d2g::dataset
