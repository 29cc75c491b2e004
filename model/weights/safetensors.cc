#include "model/weights/safetensors.h"

#include <ATen/core/grad_mode.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <memory>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "model/files/error.h"
#include "model/files/mapped_file.h"
#include "model/files/safetensors_header.h"
#include "model/files/weight_files.h"
#include "services/files/file_writer.h"

namespace d2g::model {

using nlohmann::json;

namespace {

// In the order of SafetensorsDtype.
constexpr at::ScalarType kScalarTypes[] = {
    at::kDouble, at::kFloat, at::kHalf,  at::kBFloat16, at::kFloat8_e4m3fn, at::kFloat8_e5m2,
    at::kLong,   at::kInt,   at::kShort, at::kChar,     at::kByte,          at::kBool,
};

const char* NameOfDtype(at::ScalarType type, const std::string& tensor) {
  if (const auto dtype = SafetensorsDtypeOf(type)) return NameOf(*dtype);
  Fail("tensor ", tensor, ": dtype ", c10::toString(type), " has no safetensors name");
}

// The context of a mapped storage, which its deleter frees. The deleter's address marks the storage
// as mapped.
using MappingPointer = std::shared_ptr<MappedFile>;
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

}  // namespace

std::optional<SafetensorsDtype> SafetensorsDtypeOf(at::ScalarType type) {
  for (size_t i = 0; i < std::size(kScalarTypes); ++i) {
    if (type == kScalarTypes[i]) return static_cast<SafetensorsDtype>(i);
  }
  return std::nullopt;
}

TensorMap ReadSafetensors(const std::string& path) {
  const auto mapping = std::make_shared<MappedFile>(path);
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
  const MappedFile mapping(path);
  return ParseSafetensorsHeader(mapping.bytes(), path).metadata;
}

TensorMap ReadSafetensorsFolder(const std::string& folder, const std::string& stem,
                                const std::string& variant) {
  const WeightFiles files = ChooseWeightFiles(folder, stem, variant);
  if (files.index.empty()) return ReadSafetensors(folder + "/" + files.shards.begin()->first);
  TensorMap tensors;
  for (const auto& [file, names] : files.shards) {
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

  WithIoErrors([&] {
    files::FileWriter file(path);
    file.Append(length.data(), length.size());
    file.Append(header.data(), header.size());
    for (const Item& item : items) {
      file.Append(item.tensor.const_data_ptr(), item.tensor.nbytes());
      if (progress) progress();
    }
    file.Commit();
  });
}

}  // namespace d2g::model
