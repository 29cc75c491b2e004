// What LibTorch's exceptions say, without their stack traces.
#pragma once

#include <exception>
#include <string>

namespace d2g::collective {

// The first line of the exception's message: c10's have a stack of addresses below it.
inline std::string FirstLine(const std::exception& error) {
  const std::string message = error.what();
  return message.substr(0, message.find('\n'));
}

}  // namespace d2g::collective
