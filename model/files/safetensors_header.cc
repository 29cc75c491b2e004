#include "model/files/safetensors_header.h"

#include <algorithm>
#include <tuple>
#include <unordered_set>
#include <utility>

#include "model/files/error.h"
#include "model/files/input_file.h"
#include "model/files/json_events.h"

namespace d2g::model {

namespace {

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

class HeaderReader : public JsonEvents<HeaderReader> {
 public:
  HeaderReader(const std::string& path, SafetensorsHeader* header)
      : path_(path), header_(*header) {}

  [[noreturn]] void FailWith(const std::string& what) const { Fail(path_, ": header is ", what); }

  void OnEvent(const JsonEvent& event) {
    switch (state_) {
      case State::kStart:
        if (event.kind != JsonEvent::Kind::kBegin || !event.is_object)
          FailWith("not a JSON object");
        state_ = State::kRoot;
        return;
      case State::kRoot:
        if (event.kind == JsonEvent::Kind::kKey) BeginTensor(event.text);
        return;
      case State::kMetadata:
      case State::kMetadataMap:
        return OnMetadata(event);
      case State::kTensor:
        if (event.kind != JsonEvent::Kind::kBegin || !event.is_object) FailForm();
        state_ = State::kField;
        return;
      case State::kField:
        if (event.kind == JsonEvent::Kind::kEnd) return EndTensor();
        return BeginField(event.text);
      case State::kDtype:
        return OnDtype(event);
      case State::kShape:
      case State::kOffsets:
        if (event.kind != JsonEvent::Kind::kBegin || event.is_object) {
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

  void OnMetadata(const JsonEvent& event) {
    if (state_ == State::kMetadata) {
      if (event.is_null) {
        state_ = State::kRoot;
      } else if (event.kind == JsonEvent::Kind::kBegin && event.is_object) {
        state_ = State::kMetadataMap;
      } else {
        Fail(path_, ": __metadata__ is ", Printable(event.text), ", not an object");
      }
    } else if (event.kind == JsonEvent::Kind::kKey) {
      key_ = event.text;
      if (header_.metadata.size() >= kMaxSafetensorsTensors) {
        Fail(path_, ": __metadata__ has more than ", kMaxSafetensorsTensors, " entries");
      }
    } else if (event.kind == JsonEvent::Kind::kEnd) {
      state_ = State::kRoot;
    } else if (event.kind == JsonEvent::Kind::kString) {
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

  void OnDtype(const JsonEvent& event) {
    const std::optional<SafetensorsDtype> dtype =
        event.kind == JsonEvent::Kind::kString ? FindSafetensorsDtype(event.text) : std::nullopt;
    if (!dtype) {
      std::string known;
      for (const DtypeInfo& info : kDtypes)
        known += (known.empty() ? "" : ", ") + std::string(info.name);
      FailTensor("dtype ", Printable(event.text), " is not one of ", known);
    }
    entry_.dtype = *dtype;
    state_ = State::kField;
  }

  void OnNumber(const JsonEvent& event) {
    const bool in_shape = state_ == State::kShapeList;
    if (event.kind == JsonEvent::Kind::kEnd) {
      state_ = State::kField;
      return;
    }
    if (event.kind != JsonEvent::Kind::kUnsigned) {
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
  IgnoredJson ignored_;
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

// Size of the header's length, which stands before the header.
constexpr uint64_t kPrefixBytes = 8;
// Enough of a file to tell it from a pointer to one.
constexpr uint64_t kStartBytes = 64;

uint64_t HeaderLength(std::string_view start, uint64_t file_size, const std::string& path) {
  if (start.starts_with("version https://git-lfs")) {
    Fail(path, ": is a Git LFS pointer, not the file itself (git lfs pull fetches it)");
  }
  if (start.size() < kPrefixBytes) {
    Fail(path, ": too short for a safetensors file: ", start.size(), " bytes");
  }
  uint64_t length = 0;
  for (uint64_t i = 0; i < kPrefixBytes; ++i) {
    length |= static_cast<uint64_t>(static_cast<unsigned char>(start[i])) << (8 * i);
  }
  if (length > kMaxSafetensorsHeader) {
    Fail(path, ": header length ", length, " is over the limit of ", kMaxSafetensorsHeader);
  }
  if (length > file_size - kPrefixBytes) {
    Fail(path, ": truncated: header of ", length, " bytes needs a file of at least ",
         length + kPrefixBytes, " bytes, this one has ", file_size);
  }
  return length;
}

SafetensorsHeader Parse(std::string_view json, uint64_t file_size, const std::string& path) {
  SafetensorsHeader header;
  header.data_begin = kPrefixBytes + json.size();
  HeaderReader(path, &header).Read(json);
  std::sort(header.entries.begin(), header.entries.end(),
            [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
              return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
            });
  CheckRanges(header, path, file_size);
  return header;
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
  const uint64_t length = HeaderLength(file.substr(0, kStartBytes), file.size(), path);
  return Parse(file.substr(kPrefixBytes, length), file.size(), path);
}

SafetensorsHeader ReadSafetensorsHeader(const std::string& path) {
  const InputFile file(path);
  const std::string start = file.Read(0, std::min(kStartBytes, file.size()));
  const uint64_t length = HeaderLength(start, file.size(), path);
  const std::string header = file.Read(kPrefixBytes, length);
  if (header.size() < length) throw IoError(path + ": was cut while it was read");
  return Parse(header, file.size(), path);
}

}  // namespace d2g::model
