#include "worker/model/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "worker/model/error.h"
#include "worker/model/file_writer.h"
#include "worker/model/json_config.h"

namespace d2g::model {

using nlohmann::json;

namespace {

struct DtypeName {
  const char* name;
  at::ScalarType type;
};

constexpr DtypeName kDtypes[] = {
    {"F64", at::kDouble}, {"F32", at::kFloat}, {"F16", at::kHalf},  {"BF16", at::kBFloat16},
    {"I64", at::kLong},   {"I32", at::kInt},   {"I16", at::kShort}, {"I8", at::kChar},
    {"U8", at::kByte},    {"BOOL", at::kBool},
};

std::optional<at::ScalarType> FindDtype(const std::string& name) {
  for (const DtypeName& dtype : kDtypes) {
    if (name == dtype.name) return dtype.type;
  }
  return std::nullopt;
}

const char* NameOfDtype(at::ScalarType type, const std::string& tensor) {
  for (const DtypeName& dtype : kDtypes) {
    if (type == dtype.type) return dtype.name;
  }
  Fail("tensor ", tensor, ": dtype ", c10::toString(type), " has no safetensors name");
}

// A file mapped for as long as any tensor of it lives.
class Mapping {
 public:
  explicit Mapping(const std::string& path) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) throw IoError(path + ": cannot be opened: " + std::strerror(errno));
    struct stat info {};
    if (::fstat(fd, &info) != 0) {
      const int error = errno;
      ::close(fd);
      throw IoError(path + ": cannot be read: " + std::strerror(error));
    }
    if (!S_ISREG(info.st_mode)) {
      ::close(fd);
      Fail(path, ": not a regular file");
    }
    size_ = static_cast<uint64_t>(info.st_size);
    if (size_ > 0) {
      void* mapped = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
      const int error = errno;
      ::close(fd);
      if (mapped == MAP_FAILED) {
        throw IoError(path + ": cannot be mapped: " + std::strerror(error));
      }
      data_ = static_cast<uint8_t*>(mapped);
    } else {
      ::close(fd);
    }
  }
  ~Mapping() {
    if (data_ != nullptr) ::munmap(data_, size_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  uint8_t* data() const { return data_; }
  uint64_t size() const { return size_; }

 private:
  uint8_t* data_ = nullptr;
  uint64_t size_ = 0;
};

struct Entry {
  std::string name;
  at::ScalarType dtype = at::kFloat;
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // in the data after the header
  uint64_t end = 0;
};

struct Header {
  std::vector<Entry> entries;  // by offset
  std::map<std::string, std::string> metadata;
  uint64_t data_begin = 0;
};

uint64_t Unsigned(const json& value, const std::string& path, const std::string& tensor,
                  const char* what) {
  if (!value.is_number_unsigned()) {
    Fail(path, ": tensor ", tensor, ": ", what, " is ", value.dump(), ", not a whole number");
  }
  return value.get<uint64_t>();
}

Entry ParseEntry(const std::string& path, const std::string& name, const json& value) {
  Entry entry;
  entry.name = name;
  if (!value.is_object() || !value.contains("dtype") || !value.contains("shape") ||
      !value.contains("data_offsets")) {
    Fail(path, ": tensor ", name, ": needs dtype, shape and data_offsets");
  }
  const json& dtype_name = value["dtype"];
  const std::optional<at::ScalarType> dtype =
      dtype_name.is_string() ? FindDtype(dtype_name.get<std::string>()) : std::nullopt;
  if (!dtype) {
    Fail(path, ": tensor ", name, ": dtype ", dtype_name.dump(),
         " is not one of F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL");
  }
  entry.dtype = *dtype;
  const json& shape = value["shape"];
  if (!shape.is_array()) Fail(path, ": tensor ", name, ": shape is not a list");
  uint64_t bytes = c10::elementSize(entry.dtype);
  for (const json& item : shape) {
    const uint64_t extent = Unsigned(item, path, name, "an extent of its shape");
    if (extent > (uint64_t{1} << 62) || __builtin_mul_overflow(bytes, extent, &bytes)) {
      Fail(path, ": tensor ", name, ": shape ", shape.dump(), " is too large");
    }
    entry.shape.push_back(static_cast<int64_t>(extent));
  }
  const json& offsets = value["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2) {
    Fail(path, ": tensor ", name, ": data_offsets ", offsets.dump(), " is not a pair");
  }
  entry.begin = Unsigned(offsets[0], path, name, "its begin");
  entry.end = Unsigned(offsets[1], path, name, "its end");
  if (entry.end < entry.begin || entry.end - entry.begin != bytes) {
    Fail(path, ": tensor ", name, ": data_offsets ", offsets.dump(), " do not hold the ", bytes,
         " bytes of ", dtype_name.get<std::string>(), " ", shape.dump());
  }
  return entry;
}

Header ParseHeader(const std::string& path, const Mapping& file) {
  if (file.size() < 8) Fail(path, ": file of ", file.size(), " bytes is too short for safetensors");
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | file.data()[i];
  if (length > kMaxSafetensorsHeader) {
    Fail(path, ": header length ", length, " is over the limit of ", kMaxSafetensorsHeader);
  }
  if (length > file.size() - 8) {
    Fail(path, ": truncated: header of ", length, " bytes needs a file of at least ", length + 8,
         " bytes, this one has ", file.size());
  }
  Header header;
  header.data_begin = 8 + length;
  json root;
  try {
    root = json::parse(file.data() + 8, file.data() + 8 + length);
  } catch (const json::exception& error) {
    Fail(path, ": header is not valid JSON: ", error.what());
  }
  if (!root.is_object()) Fail(path, ": header is not a JSON object");
  for (const auto& [name, value] : root.items()) {
    if (name == "__metadata__") {
      if (!value.is_object()) Fail(path, ": __metadata__ is not an object");
      for (const auto& [key, text] : value.items()) {
        if (!text.is_string()) Fail(path, ": __metadata__ \"", key, "\" is not a string");
        header.metadata[key] = text.get<std::string>();
      }
      continue;
    }
    header.entries.push_back(ParseEntry(path, name, value));
  }
  std::sort(header.entries.begin(), header.entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  uint64_t position = 0;
  const Entry* previous = nullptr;
  for (const Entry& entry : header.entries) {
    if (entry.begin < position) {
      Fail(path, ": tensors ", previous->name, " and ", entry.name, " overlap");
    }
    if (entry.begin > position) {
      Fail(path, ": hole of ", entry.begin - position, " bytes before tensor ", entry.name);
    }
    position = entry.end;
    previous = &entry;
  }
  if (file.size() - header.data_begin < position) {
    Fail(path, ": truncated: expected ", header.data_begin + position, " bytes, found ",
         file.size());
  }
  if (file.size() - header.data_begin > position) {
    Fail(path, ": expected ", header.data_begin + position, " bytes, found ", file.size(),
         ": bytes that belong to no tensor");
  }
  return header;
}

}  // namespace

TensorMap ReadSafetensors(const std::string& path) {
  auto mapping = std::make_shared<Mapping>(path);
  const Header header = ParseHeader(path, *mapping);
  TensorMap tensors;
  for (const Entry& entry : header.entries) {
    uint8_t* data = mapping->data() + header.data_begin + entry.begin;
    const auto options = at::TensorOptions().dtype(entry.dtype);
    const size_t size = c10::elementSize(entry.dtype);
    at::Tensor tensor;
    if (entry.begin == entry.end) {
      tensor = at::empty(entry.shape, options);
    } else if (reinterpret_cast<uintptr_t>(data) % size == 0) {
      tensor = at::from_blob(
          data, entry.shape, [mapping](void*) {}, options);
    } else {
      tensor = at::empty(entry.shape, options);
      std::memcpy(tensor.data_ptr(), data, entry.end - entry.begin);
    }
    tensors.emplace(entry.name, std::move(tensor));
  }
  return tensors;
}

std::map<std::string, std::string> ReadSafetensorsMetadata(const std::string& path) {
  const Mapping mapping(path);
  return ParseHeader(path, mapping).metadata;
}

TensorMap ReadSafetensorsFolder(const std::string& folder, const std::string& stem) {
  const std::string single = folder + "/" + stem + ".safetensors";
  if (std::filesystem::exists(single)) return ReadSafetensors(single);
  const std::string index_path = single + ".index.json";
  if (!std::filesystem::exists(index_path)) {
    throw IoError(single + ": no such file (and no " + stem + ".safetensors.index.json beside it)");
  }
  const json index = ReadJsonFile(index_path);
  const auto weight_map = index.find("weight_map");
  if (weight_map == index.end() || !weight_map->is_object()) {
    Fail(index_path, ": has no \"weight_map\"");
  }
  std::map<std::string, std::set<std::string>> promised;  // shard -> names
  for (const auto& [name, shard] : weight_map->items()) {
    if (!shard.is_string()) Fail(index_path, ": weight_map of ", name, " is not a file name");
    const auto file = shard.get<std::string>();
    if (file.empty() || file.find('/') != std::string::npos) {
      Fail(index_path, ": shard \"", file, "\" is not a plain file name");
    }
    promised[file].insert(name);
  }
  TensorMap tensors;
  for (const auto& [file, names] : promised) {
    const TensorMap shard = ReadSafetensors(folder + "/" + file);
    for (const std::string& name : names) {
      const auto it = shard.find(name);
      if (it == shard.end()) Fail(folder, "/", file, ": lacks tensor ", name, " of the index");
      tensors.emplace(name, it->second);
    }
  }
  return tensors;
}

void WriteSafetensors(const std::string& path, const TensorMap& tensors,
                      const std::map<std::string, std::string>& metadata,
                      const std::function<void()>& progress) {
  struct Item {
    const std::string* name;
    at::Tensor tensor;
  };
  std::vector<Item> items;
  for (const auto& [name, tensor] : tensors) {
    if (!tensor.defined()) Fail(path, ": tensor ", name, " is undefined");
    if (name == "__metadata__") Fail(path, ": no tensor may be named __metadata__");
    items.push_back({&name, tensor.detach().to(at::kCPU).contiguous()});
  }
  std::stable_sort(items.begin(), items.end(), [](const Item& a, const Item& b) {
    return a.tensor.element_size() > b.tensor.element_size();
  });
  json root = json::object();
  if (!metadata.empty()) root["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (const Item& item : items) {
    const uint64_t end = offset + static_cast<uint64_t>(item.tensor.nbytes());
    root[*item.name] = {{"dtype", NameOfDtype(item.tensor.scalar_type(), *item.name)},
                        {"shape", item.tensor.sizes().vec()},
                        {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string header = root.dump();
  header.append((8 - header.size() % 8) % 8, ' ');
  std::string length(8, '\0');
  for (int i = 0; i < 8; ++i) length[i] = static_cast<char>(header.size() >> (8 * i) & 0xff);

  FileWriter file(path);
  file.Append(length.data(), length.size());
  file.Append(header.data(), header.size());
  for (const Item& item : items) {
    file.Append(item.tensor.const_data_ptr(), item.tensor.nbytes());
    if (progress) progress();
  }
  file.Commit();
}

}  // namespace d2g::model
