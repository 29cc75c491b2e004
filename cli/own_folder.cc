#include "cli/own_folder.h"

#include <filesystem>

namespace d2g::cli {

std::string OwnFolder() {
  std::error_code error;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? "." : program.parent_path().string();
}

}  // namespace d2g::cli
