// Runs the real d2g-model program.
#pragma once

#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace d2g::model {

struct Ended {
  int code = 0;        // -1: by a signal
  std::string output;  // stdout and stderr
};

inline Ended RunTool(const std::vector<std::string>& arguments) {
  std::string command = std::string(std::getenv("D2G_BIN_DIR")) + "/d2g-model";
  for (const std::string& argument : arguments) command += " '" + argument + "'";
  FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  Ended ended;
  std::array<char, 4096> buffer{};
  size_t got = 0;
  while ((got = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0) {
    ended.output.append(buffer.data(), got);
  }
  const int status = ::pclose(pipe);
  ended.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return ended;
}

}  // namespace d2g::model
