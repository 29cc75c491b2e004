#include "worker/model/weights/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <memory>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "worker/model/files/error.h"
#include "worker/model/files/file_writer.h"
#include "worker/model/files/input_file.h"
#include "worker/model/files/safetensors_header.h"

namespace d2g::model {

using nlohmann::json;

namespace {

// In the order of SafetensorsDtype.
constexpr at::ScalarType kScalarTypes[] = {
    at::kDouble, at::kFloat, at::kHalf,  at::kBFloat16, at::kFloat8_e4m3fn, at::kFloat8_e5m2,
    at::kLong,   at::kInt,   at::kShort, at::kChar,     at::kByte,          at::kBool,
};

const char* NameOfDtype(at::ScalarType type, const std::string& tensor) {
  for (size_t i = 0; i < std::size(kScalarTypes); ++i) {
    if (type == kScalarTypes[i]) return NameOf(static_cast<SafetensorsDtype>(i));
  }
  Fail("tensor ", tensor, ": dtype ", c10::toString(type), " has no safetensors name");
}

// A file mapped for as long as any tensor of it lives.
class Mapping {
 public:
  explicit Mapping(const std::string& path) {
    const InputFile file(path);
    size_ = file.size();
    if (size_ == 0) return;
    void* mapped = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE, file.get(), 0);
    if (mapped == MAP_FAILED) {
      throw IoError(path + ": cannot be mapped: " + std::strerror(errno));
    }
    data_ = static_cast<char*>(mapped);
  }
  ~Mapping() {
    if (data_ != nullptr) ::munmap(data_, size_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  // Asks the kernel to read the whole file ahead: the tensors are wanted soon.
  void ReadAhead() const {
    if (data_ != nullptr) ::madvise(data_, size_, MADV_WILLNEED);
  }

  char* data() const { return data_; }
  std::string_view bytes() const { return {data_, size_}; }

 private:
  char* data_ = nullptr;
  uint64_t size_ = 0;
};

// The context of a mapped storage, which its deleter frees. The deleter's address marks the storage
// as mapped.
using MappingPointer = std::shared_ptr<Mapping>;
void DropMapping(void* context) { delete static_cast<MappingPointer*>(context); }

at::Tensor MappedTensor(const MappingPointer& mapping, char* data, uint64_t bytes,
                        at::IntArrayRef shape, at::ScalarType dtype) {
  c10::DataPtr pointer(data, new MappingPointer(mapping), &DropMapping, at::kCPU);
  const c10::Storage storage(c10::Storage::use_byte_size_t(), bytes, std::move(pointer),
                             /*allocator=*/nullptr, /*resizable=*/false);
  const at::NoGradGuard no_grad;
  at::Tensor tensor = at::empty({0}, at::TensorOptions().dtype(dtype));
  tensor.set_(storage, 0, shape);
  return tensor;
}

// Whether the name is front + something + back, and what that is.
bool HasBetween(std::string_view name, std::string_view front, std::string_view back,
                std::string* middle) {
  if (name.size() <= front.size() + back.size() || !name.starts_with(front) ||
      !name.ends_with(back)) {
    return false;
  }
  *middle = name.substr(front.size(), name.size() - front.size() - back.size());
  return true;
}

// The weight files of one stem in a folder: one file or a shard index for each variant, "" being
// the plain one.
struct WeightFiles {
  std::map<std::string, std::string> single;
  std::map<std::string, std::string> index;
  std::vector<std::string> foreign;  // in formats that d2g does not read

  std::set<std::string> variants() const {
    std::set<std::string> names;
    for (const auto& [variant, file] : single) names.insert(variant);
    for (const auto& [variant, file] : index) names.insert(variant);
    return names;
  }
};

WeightFiles FindWeightFiles(const std::string& folder, const std::string& stem) {
  WeightFiles files;
  std::error_code error;
  const std::filesystem::directory_iterator entries(folder, error);
  if (error) throw IoError(folder + ": cannot be opened: " + error.message());
  for (const auto& entry : entries) {
    const std::string name = entry.path().filename().string();
    std::string variant;
    if (name == stem + ".safetensors") {
      files.single[""] = name;
    } else if (name == stem + ".safetensors.index.json") {
      files.index[""] = name;
    } else if (HasBetween(name, stem + ".safetensors.index.", ".json", &variant)) {
      files.index[variant] = name;
    } else if (HasBetween(name, stem + ".", ".safetensors", &variant)) {
      // A shard, model.fp16-00001-of-00002.safetensors, is read through its index.
      if (variant.find("-of-") == std::string::npos) files.single[variant] = name;
    } else if (name.ends_with(".bin") || name.ends_with(".ckpt") || name.ends_with(".msgpack") ||
               name.ends_with(".h5") || name.ends_with(".pt") || name.ends_with(".pth") ||
               name.ends_with(".onnx") || name.ends_with(".gguf")) {
      files.foreign.push_back(name);
    }
  }
  std::sort(files.foreign.begin(), files.foreign.end());
  return files;
}

std::string Joined(const std::set<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

// The variant to read; throws where there is none or no single one.
std::string ChooseVariant(const WeightFiles& files, const std::string& folder,
                          const std::string& stem, const std::string& wanted) {
  const std::set<std::string> variants = files.variants();
  if (variants.contains(wanted)) return wanted;
  const std::string path = folder + "/" + stem + ".safetensors";
  if (!wanted.empty()) {
    std::set<std::string> named = variants;
    named.erase("");
    Fail(folder, ": has no variant \"", wanted, "\" of ", stem, ".safetensors (",
         named.empty() ? "it has no variants" : "it has " + Joined(named), ")");
  }
  if (variants.size() == 1) return *variants.begin();
  if (variants.size() > 1) {
    Fail(folder, ": has several variants of ", stem, ".safetensors (", Joined(variants),
         "): choose one with --variant");
  }
  if (!files.foreign.empty()) {
    Fail(path, ": no such file; ", files.foreign.front(),
         " is not read: convert it to safetensors (save_pretrained with safe_serialization=True)");
  }
  throw IoError(path + ": no such file (and no " + stem + ".safetensors.index.json beside it)");
}

TensorMap ReadShards(const std::string& folder, const std::string& index_path) {
  const auto shards = ParseShardIndex(ReadFileToString(index_path), index_path);
  TensorMap tensors;
  for (const auto& [file, names] : shards) {
    const TensorMap shard = ReadSafetensors(folder + "/" + file);
    for (const std::string& name : names) {
      const auto it = shard.find(name);
      if (it == shard.end()) {
        Fail(folder, "/", file, ": lacks tensor ", Printable(name), " of the index");
      }
      tensors.emplace(name, it->second);
    }
  }
  return tensors;
}

}  // namespace

TensorMap ReadSafetensors(const std::string& path) {
  const auto mapping = std::make_shared<Mapping>(path);
  const SafetensorsHeader header = ParseSafetensorsHeader(mapping->bytes(), path);
  mapping->ReadAhead();
  TensorMap tensors;
  for (const SafetensorsEntry& entry : header.entries) {
    char* data = mapping->data() + header.data_begin + entry.begin;
    const at::ScalarType dtype = kScalarTypes[static_cast<size_t>(entry.dtype)];
    at::Tensor tensor;
    if (entry.begin == entry.end) {
      tensor = at::empty(entry.shape, at::TensorOptions().dtype(dtype));
    } else if (reinterpret_cast<uintptr_t>(data) % ElementSize(entry.dtype) == 0) {
      tensor = MappedTensor(mapping, data, entry.end - entry.begin, entry.shape, dtype);
    } else {
      tensor = at::empty(entry.shape, at::TensorOptions().dtype(dtype));
      std::memcpy(tensor.data_ptr(), data, entry.end - entry.begin);
    }
    tensors.emplace(entry.name, std::move(tensor));
  }
  return tensors;
}

bool IsMapped(const at::Tensor& tensor) {
  return tensor.defined() && tensor.has_storage() &&
         tensor.storage().data_ptr().get_deleter() == &DropMapping;
}

void ReleasePages(const at::Tensor& tensor) {
  if (!IsMapped(tensor)) return;
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(tensor.storage().data());
  // Pages that it shares with its neighbours stay.
  const uintptr_t first = (begin + page - 1) / page;
  const uintptr_t last = (begin + tensor.storage().nbytes()) / page;
  if (first >= last) return;
  // A page that was written to is no page of the file any more, and dropping it would lose what was
  // written. The kernel tells them apart, bit 61 of its map; where it does not, all stay.
  constexpr uint64_t kPageOfFile = uint64_t{1} << 61;
  constexpr size_t kAtOnce = 4096;
  const int map = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (map < 0) return;
  std::vector<uint64_t> pages(std::min<size_t>(last - first, kAtOnce));
  for (uintptr_t at = first; at < last; at += pages.size()) {
    const size_t count = std::min<size_t>(pages.size(), last - at);
    const ssize_t bytes = ::pread(map, pages.data(), count * sizeof(uint64_t),
                                  static_cast<off_t>(at * sizeof(uint64_t)));
    if (bytes != static_cast<ssize_t>(count * sizeof(uint64_t))) break;
    for (size_t i = 0; i < count;) {
      size_t end = i;
      while (end < count && (pages[end] & kPageOfFile) != 0) ++end;
      if (end > i) {
        ::madvise(reinterpret_cast<void*>((at + i) * page), (end - i) * page, MADV_DONTNEED);
      }
      i = end + 1;
    }
  }
  ::close(map);
}

std::map<std::string, std::string> ReadSafetensorsMetadata(const std::string& path) {
  const Mapping mapping(path);
  return ParseSafetensorsHeader(mapping.bytes(), path).metadata;
}

TensorMap ReadSafetensorsFolder(const std::string& folder, const std::string& stem,
                                const std::string& variant) {
  const WeightFiles files = FindWeightFiles(folder, stem);
  const std::string chosen = ChooseVariant(files, folder, stem, variant);
  const auto single = files.single.find(chosen), index = files.index.find(chosen);
  // Where both are there transformers reads the file and diffusers the index.
  const bool prefers_file = stem == "model";
  if (single != files.single.end() && (prefers_file || index == files.index.end())) {
    return ReadSafetensors(folder + "/" + single->second);
  }
  return ReadShards(folder, folder + "/" + index->second);
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
