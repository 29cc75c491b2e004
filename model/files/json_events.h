// JSON as a stream of events: memory grows with what a reader keeps, not with the file's nesting or
// numbers. Readers derive from JsonEvents; they are for one document and one thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "model/files/error.h"
#include "model/files/json_config.h"

namespace d2g::model {

// Values nested deeper than this are of no format that d2g reads.
inline constexpr int kMaxIgnoredDepth = 16;

// One event of a JSON stream.
struct JsonEvent {
  enum class Kind { kUnsigned, kString, kOther, kKey, kBegin, kEnd };
  Kind kind;
  std::string_view text;  // of a string or key; else what the value looks like
  uint64_t number = 0;
  bool is_object = false;  // of kBegin and kEnd
  bool is_null = false;    // of kOther
};

// Passes each event to a method OnEvent of the class that derives from it, which throws Error for
// what it does not expect.
template <typename Reader>
class JsonEvents {
 public:
  bool null() { return Value("null", /*is_null=*/true); }
  bool boolean(bool value) { return Value(value ? "true" : "false"); }
  bool number_integer(nlohmann::json::number_integer_t value) {
    return Value(std::to_string(value));
  }
  bool number_unsigned(nlohmann::json::number_unsigned_t value) {
    return Pass({JsonEvent::Kind::kUnsigned, std::to_string(value), value});
  }
  bool number_float(nlohmann::json::number_float_t, const std::string& text) { return Value(text); }
  bool string(const std::string& text) { return Pass({JsonEvent::Kind::kString, text}); }
  bool binary(const nlohmann::json::binary_t&) { return Value("binary"); }
  bool start_object(size_t) { return Pass({JsonEvent::Kind::kBegin, "an object", 0, true}); }
  bool key(const std::string& text) { return Pass({JsonEvent::Kind::kKey, text}); }
  bool end_object() { return Pass({JsonEvent::Kind::kEnd, "}", 0, true}); }
  bool start_array(size_t) { return Pass({JsonEvent::Kind::kBegin, "a list"}); }
  bool end_array() { return Pass({JsonEvent::Kind::kEnd, "]"}); }
  [[noreturn]] bool parse_error(size_t position, const std::string&,
                                const nlohmann::json::exception& error) {
    static_cast<Reader*>(this)->FailWith("not valid JSON at byte " + std::to_string(position) +
                                         ": " + Printable(JsonProblem(error)));
  }

  void Read(std::string_view text) {
    nlohmann::json::sax_parse(text.data(), text.data() + text.size(), static_cast<Reader*>(this));
  }

 private:
  bool Value(const std::string& text, bool is_null = false) {
    return Pass({JsonEvent::Kind::kOther, text, 0, false, is_null});
  }
  bool Pass(const JsonEvent& event) {
    static_cast<Reader*>(this)->OnEvent(event);
    return true;
  }
};

// Follows a value that does not matter to its end.
class IgnoredJson {
 public:
  // Returns whether the value is complete; says in `too_deep` whether to give up.
  bool Done(const JsonEvent& event, bool* too_deep) {
    if (event.kind == JsonEvent::Kind::kBegin) *too_deep = ++depth_ > kMaxIgnoredDepth;
    if (event.kind == JsonEvent::Kind::kEnd) --depth_;
    return depth_ == 0 && event.kind != JsonEvent::Kind::kKey;
  }

 private:
  int depth_ = 0;
};

// Whether a name that came from a file holds characters that no real name does.
inline bool HasControlCharacter(std::string_view text) {
  return std::any_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

}  // namespace d2g::model
