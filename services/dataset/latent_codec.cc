#include "services/dataset/latent_codec.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/digest.h"
#include "services/common/status_macros.h"

namespace d2g::dataset {
namespace {

using common::v1::DType;

static_assert(std::endian::native == std::endian::little, "latents are copied as little-endian");

uint16_t ToHalf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return static_cast<uint16_t>(sign | 0x7E00);   // NaN
  if (magnitude >= 0x47800000) return static_cast<uint16_t>(sign | 0x7C00);  // 2^16 and more
  if (magnitude < 0x38800000) {  // Below 2^-14: subnormal, in units of 2^-24.
    const float scaled = std::bit_cast<float>(magnitude) * 0x1p24F;
    // Adding 2^23 rounds to an integer, ties to even.
    const uint32_t rounded = std::bit_cast<uint32_t>(scaled + 0x1p23F) & 0x7FFFFF;
    return static_cast<uint16_t>(sign | rounded);
  }
  // Normal: rebias the exponent and round 13 bits away; a carry goes into the exponent, up to
  // infinity.
  const uint32_t rounded = magnitude - 0x38000000 + 0xFFF + ((magnitude >> 13) & 1);
  return static_cast<uint16_t>(sign | (rounded >> 13));
}

float FromHalf(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 0x1F;
  const uint32_t mantissa = half & 0x3FF;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
  }
  if (exponent == 0x1F) return std::bit_cast<float>(sign | 0x7F800000 | mantissa << 13);
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

uint16_t ToBrain(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

float FromBrain(uint16_t brain) { return std::bit_cast<float>(static_cast<uint32_t>(brain) << 16); }

template <typename Convert>
std::string Encode16(std::span<const float> values, Convert convert) {
  std::string bytes(values.size() * 2, '\0');
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t number = convert(values[i]);
    std::memcpy(bytes.data() + 2 * i, &number, 2);
  }
  return bytes;
}

template <typename Convert>
void Decode16(absl::string_view bytes, Convert convert, std::span<float> out) {
  for (size_t i = 0; i < out.size(); ++i) {
    uint16_t number = 0;
    std::memcpy(&number, bytes.data() + 2 * i, 2);
    out[i] = convert(number);
  }
}

// `mask` selects the exponent: all ones in NaN and infinity.
template <typename T>
int64_t FindFullExponent(absl::string_view bytes, T mask) {
  for (size_t i = 0; i * sizeof(T) < bytes.size(); ++i) {
    T number = 0;
    std::memcpy(&number, bytes.data() + i * sizeof(T), sizeof(T));
    if ((number & mask) == mask) return static_cast<int64_t>(i);
  }
  return -1;
}

absl::Status UnknownDType(DType dtype) {
  return absl::InvalidArgumentError(
      absl::StrCat("storage dtype ", static_cast<int>(dtype), " is none of fp16, bf16, fp32"));
}

}  // namespace

int64_t BytesOf(DType dtype) {
  switch (dtype) {
    case common::v1::DTYPE_FP16:
    case common::v1::DTYPE_BF16:
      return 2;
    case common::v1::DTYPE_FP32:
      return 4;
    default:
      return 0;
  }
}

int64_t LatentElements(const common::v1::DatasetRecipe& recipe) {
  return int64_t{recipe.latent_channels()} * recipe.latent_height() * recipe.latent_width();
}

int64_t LatentBytes(const common::v1::DatasetRecipe& recipe) {
  return LatentElements(recipe) * BytesOf(recipe.storage_dtype());
}

absl::StatusOr<std::string> EncodeLatent(std::span<const float> values, DType dtype) {
  switch (dtype) {
    case common::v1::DTYPE_FP16:
      return Encode16(values, ToHalf);
    case common::v1::DTYPE_BF16:
      return Encode16(values, ToBrain);
    case common::v1::DTYPE_FP32:
      return std::string(reinterpret_cast<const char*>(values.data()), values.size_bytes());
    default:
      return UnknownDType(dtype);
  }
}

absl::Status DecodeLatent(absl::string_view bytes, DType dtype, std::span<float> out) {
  const int64_t size = BytesOf(dtype);
  if (size == 0) return UnknownDType(dtype);
  if (bytes.size() != out.size() * static_cast<size_t>(size)) {
    return absl::InvalidArgumentError(absl::StrCat("a latent of ", out.size(), " numbers has ",
                                                   out.size() * static_cast<size_t>(size),
                                                   " bytes, not ", bytes.size()));
  }
  switch (dtype) {
    case common::v1::DTYPE_FP16:
      Decode16(bytes, FromHalf, out);
      break;
    case common::v1::DTYPE_BF16:
      Decode16(bytes, FromBrain, out);
      break;
    default:
      std::memcpy(out.data(), bytes.data(), bytes.size());
  }
  return absl::OkStatus();
}

int64_t FindNonFinite(absl::string_view bytes, DType dtype) {
  switch (dtype) {
    case common::v1::DTYPE_FP16:
      return FindFullExponent<uint16_t>(bytes, 0x7C00);
    case common::v1::DTYPE_BF16:
      return FindFullExponent<uint16_t>(bytes, 0x7F80);
    default:
      return FindFullExponent<uint32_t>(bytes, 0x7F800000);
  }
}

uint64_t LatentChecksum(absl::string_view bytes) { return common::Xxh3(bytes); }

uint64_t NoiseChecksum(std::span<const float> noise) {
  return common::Xxh3(
      absl::string_view(reinterpret_cast<const char*>(noise.data()), noise.size_bytes()));
}

absl::StatusOr<store::v1::Triple> MakeTriple(int64_t index, int64_t prompt_index,
                                             std::span<const float> x, std::span<const float> noise,
                                             DType dtype) {
  store::v1::Triple triple;
  triple.set_index(index);
  triple.set_prompt_index(prompt_index);
  D2G_ASSIGN_OR_RETURN(*triple.mutable_x(), EncodeLatent(x, dtype));
  triple.set_noise_checksum(NoiseChecksum(noise));
  triple.set_x_checksum(LatentChecksum(triple.x()));
  return triple;
}

}  // namespace d2g::dataset
