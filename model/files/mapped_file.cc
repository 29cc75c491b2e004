#include "model/files/mapped_file.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "model/files/error.h"
#include "model/files/input_file.h"

namespace d2g::model {

MappedFile::MappedFile(const std::string& path) {
  const InputFile file(path);
  size_ = file.size();
  if (size_ == 0) return;
  // Few pages are ever written to, so the kernel need not hold memory ready for all.
  void* mapped =
      ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file.get(), 0);
  if (mapped == MAP_FAILED) throw IoError(path + ": cannot be mapped: " + std::strerror(errno));
  data_ = static_cast<char*>(mapped);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

void MappedFile::ReadAhead() const {
  if (data_ != nullptr) ::madvise(data_, size_, MADV_WILLNEED);
}

}  // namespace d2g::model
