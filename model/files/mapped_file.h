// A whole file in memory, as the kernel pages it in.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace d2g::model {

// The mapping is private: what is written to it never reaches the file. Cutting the file while it
// is mapped is undefined. The constructor throws as InputFile does, and IoError when the file
// cannot be mapped. Immutable; thread-safe.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  // Asks the kernel to read the whole file ahead: all of it is wanted soon.
  void ReadAhead() const;

  char* data() const { return data_; }
  std::string_view bytes() const { return {data_, size_}; }

 private:
  char* data_ = nullptr;
  uint64_t size_ = 0;
};

}  // namespace d2g::model
