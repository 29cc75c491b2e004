// The exceptions of the model library.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

namespace d2g::model {

// Thrown for every failure that the caller can name: a bad file, a tensor that does not fit, an
// option that is not supported. The message states the thing, its value and the limit, and is meant
// to be shown as it is. Programs turn it into a status at their border
// (worker/common/torch_status.h).
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A file cannot be opened, read or written: the fault of this machine or its disk, not of what was
// asked for. One that is not there is a MissingFile (missing_file.h), which may be either: a whole
// folder that is gone is a lost mount, a single file that a folder lacks was never there.
class IoError : public Error {
 public:
  using Error::Error;
};

// Runs f(), which calls what reports the system's refusals as std::system_error
// (services/files/file_writer.h), and throws those as IoError.
template <typename F>
void WithIoErrors(F&& f) {
  try {
    f();
  } catch (const std::system_error& error) {
    throw IoError(error.what());
  }
}

// Throws Error with the parts streamed into one message.
template <typename... Parts>
[[noreturn]] void Fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw Error(message.str());
}

// `text`, which came from a file, for a message: cut after `limit` bytes, control characters as
// \xNN.
inline std::string Printable(std::string_view text, size_t limit = 200) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string out;
  for (const char c : text.substr(0, limit)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte != 0x7f) {
      out += c;
    } else {
      out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    }
  }
  return text.size() > limit ? out + "..." : out;
}

}  // namespace d2g::model
