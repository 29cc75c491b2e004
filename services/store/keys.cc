#include "services/store/keys.h"

#include <bit>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "services/common/digest.h"
#include "services/dataset/latent_codec.h"

namespace d2g::store {
namespace {

static_assert(std::endian::native == std::endian::little, "values are written as they lie");

constexpr char kFamilyPrefix[] = "dataset-";
constexpr uint8_t kTripleVersion = 1;

// On disk, little-endian; followed by the XXH3-64 of these bytes, then by x.
struct TripleHeader {
  uint8_t version;
  uint8_t dtype;
  uint16_t header_bytes;
  uint16_t channels;
  uint16_t height;
  uint16_t width;
  uint16_t reserved;
  uint32_t x_bytes;
  int64_t index;
  int64_t prompt_index;
  uint64_t noise_checksum;
  uint64_t x_checksum;
};
static_assert(sizeof(TripleHeader) + sizeof(uint64_t) == kTripleHeaderBytes);

void AppendBigEndian32(uint32_t value, std::string* out) {
  for (int shift = 24; shift >= 0; shift -= 8) out->push_back(static_cast<char>(value >> shift));
}

void AppendBigEndian64(uint64_t value, std::string* out) {
  for (int shift = 56; shift >= 0; shift -= 8) out->push_back(static_cast<char>(value >> shift));
}

uint64_t BigEndian(absl::string_view bytes) {
  uint64_t value = 0;
  for (const char c : bytes) value = value << 8 | static_cast<unsigned char>(c);
  return value;
}

absl::string_view AsBytes(const void* data, size_t size) {
  return absl::string_view(static_cast<const char*>(data), size);
}

}  // namespace

std::string RowPrefix(RowKind kind) { return std::string(1, static_cast<char>(kind)); }

std::string RowPrefix(RowKind kind, DatasetId dataset) {
  std::string key = RowPrefix(kind);
  AppendBigEndian32(dataset, &key);
  return key;
}

std::string EncodeRowKey(const RowKey& key) {
  if (key.kind == RowKind::kStore) return RowPrefix(key.kind);
  std::string bytes = RowPrefix(key.kind, key.dataset);
  if (key.kind != RowKind::kDataset) AppendBigEndian64(static_cast<uint64_t>(key.number), &bytes);
  return bytes;
}

absl::StatusOr<RowKey> DecodeRowKey(absl::string_view bytes) {
  const auto bad = [&] {
    return absl::DataLossError(absl::StrCat("a row's key of ", bytes.size(), " bytes is unknown"));
  };
  if (bytes.empty()) return bad();
  RowKey key{static_cast<RowKind>(bytes[0])};
  size_t size = 0;
  switch (key.kind) {
    case RowKind::kStore:
      size = 1;
      break;
    case RowKind::kDataset:
      size = 5;
      break;
    case RowKind::kBlock:
    case RowKind::kChecksum:
    case RowKind::kSeal:
      size = 13;
      break;
  }
  if (bytes.size() != size) return bad();
  if (size >= 5) key.dataset = static_cast<DatasetId>(BigEndian(bytes.substr(1, 4)));
  if (size == 13) key.number = static_cast<int64_t>(BigEndian(bytes.substr(5, 8)));
  return key;
}

std::string EncodeTripleKey(int64_t index) {
  std::string key;
  AppendBigEndian64(static_cast<uint64_t>(index), &key);
  return key;
}

absl::StatusOr<int64_t> DecodeTripleKey(absl::string_view bytes) {
  if (bytes.size() != 8) {
    return absl::DataLossError(absl::StrCat("a triple's key has ", bytes.size(), " bytes, not 8"));
  }
  return static_cast<int64_t>(BigEndian(bytes));
}

std::string ColumnFamilyName(DatasetId dataset) { return absl::StrCat(kFamilyPrefix, dataset); }

DatasetId ParseColumnFamilyName(absl::string_view name) {
  DatasetId id = 0;
  if (!absl::StartsWith(name, kFamilyPrefix) ||
      !absl::SimpleAtoi(name.substr(sizeof(kFamilyPrefix) - 1), &id)) {
    return 0;
  }
  return id;
}

std::string EncodeChecksum(uint64_t checksum) {
  return std::string(AsBytes(&checksum, sizeof(checksum)));
}

absl::StatusOr<uint64_t> DecodeChecksum(absl::string_view bytes) {
  uint64_t checksum = 0;
  if (bytes.size() != sizeof(checksum)) {
    return absl::DataLossError(
        absl::StrCat("a checksum row has ", bytes.size(), " bytes, not ", sizeof(checksum)));
  }
  std::memcpy(&checksum, bytes.data(), sizeof(checksum));
  return checksum;
}

std::string EncodeTripleHeader(const v1::Triple& triple, const common::v1::DatasetRecipe& recipe) {
  TripleHeader header = {};
  header.version = kTripleVersion;
  header.dtype = static_cast<uint8_t>(recipe.storage_dtype());
  header.header_bytes = kTripleHeaderBytes;
  header.channels = static_cast<uint16_t>(recipe.latent_channels());
  header.height = static_cast<uint16_t>(recipe.latent_height());
  header.width = static_cast<uint16_t>(recipe.latent_width());
  header.x_bytes = static_cast<uint32_t>(triple.x().size());
  header.index = triple.index();
  header.prompt_index = triple.prompt_index();
  header.noise_checksum = triple.noise_checksum();
  header.x_checksum = triple.x_checksum();
  std::string bytes(AsBytes(&header, sizeof(header)));
  return bytes + EncodeChecksum(common::Xxh3(bytes));
}

absl::StatusOr<v1::Triple> DecodeTriple(absl::string_view value, int64_t index,
                                        const common::v1::DatasetRecipe& recipe) {
  if (value.size() < kTripleHeaderBytes) {
    return absl::DataLossError(absl::StrCat(
        "the value has ", value.size(), " bytes, too short for a header of ", kTripleHeaderBytes));
  }
  TripleHeader header = {};
  std::memcpy(&header, value.data(), sizeof(header));
  uint64_t header_checksum = 0;
  std::memcpy(&header_checksum, value.data() + sizeof(header), sizeof(header_checksum));
  if (common::Xxh3(value.substr(0, sizeof(header))) != header_checksum) {
    return absl::DataLossError("the header's checksum does not match");
  }
  if (header.version != kTripleVersion || header.header_bytes != kTripleHeaderBytes) {
    return absl::DataLossError(absl::StrCat("the value has version ", header.version,
                                            "; this build reads version ", kTripleVersion));
  }
  if (header.index != index) {
    return absl::DataLossError(absl::StrCat("the value belongs to index ", header.index));
  }
  const absl::string_view x = value.substr(kTripleHeaderBytes);
  if (header.dtype != recipe.storage_dtype() || header.channels != recipe.latent_channels() ||
      header.height != recipe.latent_height() || header.width != recipe.latent_width() ||
      header.x_bytes != x.size()) {
    return absl::DataLossError("dtype, shape or size differ from the recipe's");
  }
  if (dataset::LatentChecksum(x) != header.x_checksum) {
    return absl::DataLossError("the latent's checksum does not match");
  }
  v1::Triple triple;
  triple.set_index(index);
  triple.set_prompt_index(header.prompt_index);
  triple.set_noise_checksum(header.noise_checksum);
  triple.set_x_checksum(header.x_checksum);
  triple.set_x(x.data(), x.size());
  return triple;
}

uint64_t SealDigest(int64_t index, uint64_t x_checksum) {
  const uint64_t words[2] = {static_cast<uint64_t>(index), x_checksum};
  return common::Xxh3(AsBytes(words, sizeof(words)));
}

}  // namespace d2g::store
