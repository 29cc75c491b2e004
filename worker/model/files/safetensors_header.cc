#include "worker/model/files/safetensors_header.h"

#include <algorithm>
#include <tuple>
#include <unordered_set>
#include <utility>

#include <nlohmann/json.hpp>

#include "worker/model/files/error.h"

namespace d2g::model {

namespace {

using nlohmann::json;

struct DtypeInfo {
  SafetensorsDtype dtype;
  const char* name;
  uint64_t bytes;
};

constexpr DtypeInfo kDtypes[] = {
    {SafetensorsDtype::kF64, "F64", 8},        {SafetensorsDtype::kF32, "F32", 4},
    {SafetensorsDtype::kF16, "F16", 2},        {SafetensorsDtype::kBF16, "BF16", 2},
    {SafetensorsDtype::kF8E4M3, "F8_E4M3", 1}, {SafetensorsDtype::kF8E5M2, "F8_E5M2", 1},
    {SafetensorsDtype::kI64, "I64", 8},        {SafetensorsDtype::kI32, "I32", 4},
    {SafetensorsDtype::kI16, "I16", 2},        {SafetensorsDtype::kI8, "I8", 1},
    {SafetensorsDtype::kU8, "U8", 1},          {SafetensorsDtype::kBool, "BOOL", 1},
};

// Values nested deeper than this are of no format that d2g reads.
constexpr int kMaxIgnoredDepth = 16;

// One event of a JSON stream.
struct Event {
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
  bool number_integer(json::number_integer_t value) { return Value(std::to_string(value)); }
  bool number_unsigned(json::number_unsigned_t value) {
    return Pass({Event::Kind::kUnsigned, std::to_string(value), value});
  }
  bool number_float(json::number_float_t, const std::string& text) { return Value(text); }
  bool string(const std::string& text) { return Pass({Event::Kind::kString, text}); }
  bool binary(const json::binary_t&) { return Value("binary"); }
  bool start_object(size_t) { return Pass({Event::Kind::kBegin, "an object", 0, true}); }
  bool key(const std::string& text) { return Pass({Event::Kind::kKey, text}); }
  bool end_object() { return Pass({Event::Kind::kEnd, "}", 0, true}); }
  bool start_array(size_t) { return Pass({Event::Kind::kBegin, "a list"}); }
  bool end_array() { return Pass({Event::Kind::kEnd, "]"}); }
  [[noreturn]] bool parse_error(size_t position, const std::string&, const json::exception& error) {
    static_cast<Reader*>(this)->FailWith("not valid JSON at byte " + std::to_string(position) +
                                         ": " + Printable(error.what()));
  }

  void Read(std::string_view text) {
    json::sax_parse(text.data(), text.data() + text.size(), static_cast<Reader*>(this));
  }

 private:
  bool Value(const std::string& text, bool is_null = false) {
    return Pass({Event::Kind::kOther, text, 0, false, is_null});
  }
  bool Pass(const Event& event) {
    static_cast<Reader*>(this)->OnEvent(event);
    return true;
  }
};

// Follows a value that does not matter to its end.
class IgnoredValue {
 public:
  // Returns whether the value is complete; says in `too_deep` whether to give up.
  bool Done(const Event& event, bool* too_deep) {
    if (event.kind == Event::Kind::kBegin) *too_deep = ++depth_ > kMaxIgnoredDepth;
    if (event.kind == Event::Kind::kEnd) --depth_;
    return depth_ == 0 && event.kind != Event::Kind::kKey;
  }

 private:
  int depth_ = 0;
};

bool HasControlCharacter(std::string_view text) {
  return std::any_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

class HeaderReader : public JsonEvents<HeaderReader> {
 public:
  HeaderReader(const std::string& path, SafetensorsHeader* header)
      : path_(path), header_(*header) {}

  [[noreturn]] void FailWith(const std::string& what) const { Fail(path_, ": header is ", what); }

  void OnEvent(const Event& event) {
    switch (state_) {
      case State::kStart:
        if (event.kind != Event::Kind::kBegin || !event.is_object) FailWith("not a JSON object");
        state_ = State::kRoot;
        return;
      case State::kRoot:
        if (event.kind == Event::Kind::kKey) BeginTensor(event.text);
        return;
      case State::kMetadata:
      case State::kMetadataMap:
        return OnMetadata(event);
      case State::kTensor:
        if (event.kind != Event::Kind::kBegin || !event.is_object) FailForm();
        state_ = State::kField;
        return;
      case State::kField:
        if (event.kind == Event::Kind::kEnd) return EndTensor();
        return BeginField(event.text);
      case State::kDtype:
        return OnDtype(event);
      case State::kShape:
      case State::kOffsets:
        if (event.kind != Event::Kind::kBegin || event.is_object) {
          FailTensor(state_ == State::kShape ? "shape is " : "data_offsets is ", event.text,
                     ", not a list");
        }
        state_ = state_ == State::kShape ? State::kShapeList : State::kOffsetsList;
        return;
      case State::kShapeList:
      case State::kOffsetsList:
        return OnNumber(event);
      case State::kIgnored: {
        bool too_deep = false;
        if (ignored_.Done(event, &too_deep)) state_ = State::kField;
        if (too_deep) FailTensor("a field is nested too deep");
        return;
      }
    }
  }

 private:
  enum class State {
    kStart,
    kRoot,
    kMetadata,
    kMetadataMap,
    kTensor,
    kField,
    kDtype,
    kShape,
    kShapeList,
    kOffsets,
    kOffsetsList,
    kIgnored
  };

  template <typename... Parts>
  [[noreturn]] void FailTensor(const Parts&... parts) const {
    Fail(path_, ": tensor ", Printable(entry_.name), ": ", parts...);
  }
  [[noreturn]] void FailForm() const { FailTensor("needs dtype, shape and data_offsets"); }

  void BeginTensor(std::string_view name) {
    if (name == "__metadata__") {
      if (has_metadata_) Fail(path_, ": __metadata__ comes twice");
      has_metadata_ = true;
      state_ = State::kMetadata;
      return;
    }
    entry_ = {};
    entry_.name = name;
    offsets_.clear();
    has_dtype_ = has_shape_ = has_offsets_ = false;
    if (HasControlCharacter(name)) FailTensor("its name holds control characters");
    if (!names_.insert(entry_.name).second) FailTensor("comes twice");
    if (names_.size() > kMaxSafetensorsTensors) {
      Fail(path_, ": has more than ", kMaxSafetensorsTensors, " tensors");
    }
    state_ = State::kTensor;
  }

  void OnMetadata(const Event& event) {
    if (state_ == State::kMetadata) {
      if (event.is_null) {
        state_ = State::kRoot;
      } else if (event.kind == Event::Kind::kBegin && event.is_object) {
        state_ = State::kMetadataMap;
      } else {
        Fail(path_, ": __metadata__ is ", Printable(event.text), ", not an object");
      }
    } else if (event.kind == Event::Kind::kKey) {
      key_ = event.text;
      if (header_.metadata.size() >= kMaxSafetensorsTensors) {
        Fail(path_, ": __metadata__ has more than ", kMaxSafetensorsTensors, " entries");
      }
    } else if (event.kind == Event::Kind::kEnd) {
      state_ = State::kRoot;
    } else if (event.kind == Event::Kind::kString) {
      header_.metadata[key_] = event.text;
    } else {
      Fail(path_, ": __metadata__ \"", Printable(key_), "\" is not a string");
    }
  }

  void BeginField(std::string_view key) {
    bool* seen = nullptr;
    if (key == "dtype") {
      seen = &has_dtype_;
      state_ = State::kDtype;
    } else if (key == "shape") {
      seen = &has_shape_;
      state_ = State::kShape;
    } else if (key == "data_offsets") {
      seen = &has_offsets_;
      state_ = State::kOffsets;
    } else {
      ignored_ = {};
      state_ = State::kIgnored;
      return;
    }
    if (*seen) FailTensor(key, " comes twice");
    *seen = true;
  }

  void OnDtype(const Event& event) {
    const std::optional<SafetensorsDtype> dtype =
        event.kind == Event::Kind::kString ? FindSafetensorsDtype(event.text) : std::nullopt;
    if (!dtype) {
      std::string known;
      for (const DtypeInfo& info : kDtypes)
        known += (known.empty() ? "" : ", ") + std::string(info.name);
      FailTensor("dtype ", Printable(event.text), " is not one of ", known);
    }
    entry_.dtype = *dtype;
    state_ = State::kField;
  }

  void OnNumber(const Event& event) {
    const bool in_shape = state_ == State::kShapeList;
    if (event.kind == Event::Kind::kEnd) {
      state_ = State::kField;
      return;
    }
    if (event.kind != Event::Kind::kUnsigned) {
      FailTensor(in_shape ? "an extent of its shape is " : "an offset is ", Printable(event.text),
                 ", not a whole number");
    }
    if (!in_shape) {
      if (offsets_.size() == 2) FailTensor("data_offsets is not a pair");
      offsets_.push_back(event.number);
      return;
    }
    if (entry_.shape.size() == kMaxSafetensorsRank) {
      FailTensor("has more than ", kMaxSafetensorsRank, " dimensions");
    }
    if (event.number > kMaxElements)
      FailTensor("an extent of its shape, ", event.text, ", is too large");
    entry_.shape.push_back(static_cast<int64_t>(event.number));
  }

  void EndTensor() {
    if (!has_dtype_ || !has_shape_ || !has_offsets_) FailForm();
    if (offsets_.size() != 2) FailTensor("data_offsets is not a pair");
    // With 1 for 0, so that the strides of an empty tensor do not overflow either.
    uint64_t bytes = ElementSize(entry_.dtype);
    bool is_empty = false;
    for (const int64_t extent : entry_.shape) {
      is_empty = is_empty || extent == 0;
      if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(std::max<int64_t>(extent, 1)),
                                 &bytes) ||
          bytes > kMaxElements) {
        FailTensor("its shape is too large");
      }
    }
    if (is_empty) bytes = 0;
    entry_.begin = offsets_[0];
    entry_.end = offsets_[1];
    if (entry_.end < entry_.begin || entry_.end - entry_.begin != bytes) {
      FailTensor("offsets ", entry_.begin, " to ", entry_.end, " do not hold the ", bytes,
                 " bytes of its shape and dtype");
    }
    header_.entries.push_back(std::move(entry_));
    state_ = State::kRoot;
  }

  static constexpr uint64_t kMaxElements = uint64_t{1} << 62;

  const std::string& path_;
  SafetensorsHeader& header_;
  State state_ = State::kStart;
  SafetensorsEntry entry_;
  std::vector<uint64_t> offsets_;
  bool has_dtype_ = false, has_shape_ = false, has_offsets_ = false, has_metadata_ = false;
  std::string key_;
  IgnoredValue ignored_;
  std::unordered_set<std::string> names_;
};

class IndexReader : public JsonEvents<IndexReader> {
 public:
  explicit IndexReader(const std::string& path) : path_(path) {}

  [[noreturn]] void FailWith(const std::string& what) const { Fail(path_, ": ", what); }

  void OnEvent(const Event& event) {
    switch (state_) {
      case State::kStart:
        if (event.kind != Event::Kind::kBegin || !event.is_object) FailWith("not a JSON object");
        state_ = State::kRoot;
        return;
      case State::kRoot:
        if (event.kind != Event::Kind::kKey) return;
        ignored_ = {};
        if (event.text != "weight_map") {
          state_ = State::kIgnored;
        } else if (has_map) {
          FailWith("weight_map comes twice");
        } else {
          state_ = State::kMap;
        }
        return;
      case State::kMap:
        if (event.kind != Event::Kind::kBegin || !event.is_object) {
          FailWith("weight_map is not an object");
        }
        has_map = true;
        state_ = State::kTensor;
        return;
      case State::kTensor:
        return OnTensor(event);
      case State::kIgnored: {
        bool too_deep = false;
        if (ignored_.Done(event, &too_deep)) state_ = State::kRoot;
        if (too_deep) FailWith("nested too deep");
        return;
      }
    }
  }

  bool has_map = false;
  std::map<std::string, std::set<std::string>> shards;

 private:
  enum class State { kStart, kRoot, kMap, kTensor, kIgnored };

  void OnTensor(const Event& event) {
    if (event.kind == Event::Kind::kEnd) {
      state_ = State::kRoot;
      return;
    }
    if (event.kind == Event::Kind::kKey) {
      name_ = event.text;
      if (!names_.insert(name_).second) {
        FailWith("weight_map names tensor " + Printable(name_) + " twice");
      }
      if (names_.size() > kMaxSafetensorsTensors) {
        FailWith("weight_map has more than " + std::to_string(kMaxSafetensorsTensors) + " tensors");
      }
      return;
    }
    if (event.kind != Event::Kind::kString) {
      FailWith("weight_map of " + Printable(name_) + " is not a file name");
    }
    if (event.text.empty() || event.text == "." || event.text == ".." ||
        event.text.find('/') != std::string_view::npos || HasControlCharacter(event.text)) {
      FailWith("shard \"" + Printable(event.text) + "\" is not a plain file name");
    }
    shards[std::string(event.text)].insert(name_);
  }

  const std::string& path_;
  State state_ = State::kStart;
  std::string name_;
  IgnoredValue ignored_;
  std::unordered_set<std::string> names_;
};

void CheckRanges(const SafetensorsHeader& header, const std::string& path, uint64_t file_size) {
  uint64_t position = 0;
  const SafetensorsEntry* previous = nullptr;
  for (const SafetensorsEntry& entry : header.entries) {
    if (entry.begin < position) {
      Fail(path, ": tensors ", Printable(previous->name), " and ", Printable(entry.name),
           " overlap");
    }
    if (entry.begin > position) {
      Fail(path, ": hole of ", entry.begin - position, " bytes before tensor ",
           Printable(entry.name));
    }
    position = entry.end;
    previous = &entry;
  }
  const uint64_t data_size = file_size - header.data_begin;
  if (data_size < position) {
    Fail(path, ": truncated: expected ", header.data_begin + position, " bytes, found ", file_size);
  }
  if (data_size > position) {
    Fail(path, ": expected ", header.data_begin + position, " bytes, found ", file_size,
         ": bytes that belong to no tensor");
  }
}

}  // namespace

const char* NameOf(SafetensorsDtype dtype) { return kDtypes[static_cast<size_t>(dtype)].name; }

uint64_t ElementSize(SafetensorsDtype dtype) { return kDtypes[static_cast<size_t>(dtype)].bytes; }

std::optional<SafetensorsDtype> FindSafetensorsDtype(std::string_view name) {
  for (const DtypeInfo& info : kDtypes) {
    if (name == info.name) return info.dtype;
  }
  return std::nullopt;
}

SafetensorsHeader ParseSafetensorsHeader(std::string_view file, const std::string& path) {
  constexpr uint64_t kPrefix = 8;
  if (file.starts_with("version https://git-lfs")) {
    Fail(path, ": is a Git LFS pointer, not the file itself (git lfs pull fetches it)");
  }
  if (file.size() < kPrefix)
    Fail(path, ": too short for a safetensors file: ", file.size(), " bytes");
  uint64_t length = 0;
  for (uint64_t i = 0; i < kPrefix; ++i) {
    length |= static_cast<uint64_t>(static_cast<unsigned char>(file[i])) << (8 * i);
  }
  if (length > kMaxSafetensorsHeader) {
    Fail(path, ": header length ", length, " is over the limit of ", kMaxSafetensorsHeader);
  }
  if (length > file.size() - kPrefix) {
    Fail(path, ": truncated: header of ", length, " bytes needs a file of at least ",
         length + kPrefix, " bytes, this one has ", file.size());
  }
  SafetensorsHeader header;
  header.data_begin = kPrefix + length;
  HeaderReader(path, &header).Read(file.substr(kPrefix, length));
  std::sort(header.entries.begin(), header.entries.end(),
            [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
              return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
            });
  CheckRanges(header, path, file.size());
  return header;
}

std::map<std::string, std::set<std::string>> ParseShardIndex(std::string_view text,
                                                             const std::string& path) {
  IndexReader reader(path);
  reader.Read(text);
  if (!reader.has_map) Fail(path, ": has no \"weight_map\"");
  return std::move(reader.shards);
}

}  // namespace d2g::model
