#include "model/files/latent_size.h"

#include <charconv>
#include <string>
#include <string_view>
#include <vector>

namespace d2g::model {

namespace {

constexpr const char* kSampleSize = "sample_size";
constexpr const char* kVersion = "_diffusers_version";
// The first version whose pipelines believe the file.
constexpr int kMajor = 0, kMinor = 9;

// A number at the front of `text`, which is cut off; nothing if no digit stands there.
std::optional<int> TakeNumber(std::string_view& text) {
  int number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || text.front() == '-') return std::nullopt;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return number;
}

// Whether the file is from before kMajor.kMinor. Versions are Python's (PEP 440), of which epoch,
// major and minor number decide: 0.9.0.dev0 is not before 0.9.0 here.
bool IsOld(const JsonConfig& unet) {
  const std::string version = unet.String(kVersion, "");
  if (!unet.Has(kVersion)) return false;
  std::string_view rest = version;
  while (!rest.empty() && rest.front() == ' ') rest.remove_prefix(1);
  if (rest.starts_with('v')) rest.remove_prefix(1);
  std::optional<int> major = TakeNumber(rest);
  if (!major) unet.FailAt(kVersion, "must be a version like 0.35.2");
  if (rest.starts_with('!')) {
    if (*major > 0) return false;
    rest.remove_prefix(1);
    major = TakeNumber(rest);
    if (!major) unet.FailAt(kVersion, "must be a version like 0.35.2");
  }
  if (*major != kMajor) return *major < kMajor;
  if (!rest.starts_with('.')) return true;
  rest.remove_prefix(1);
  return TakeNumber(rest).value_or(0) < kMinor;
}

}  // namespace

std::optional<LatentSize> ReadLatentSize(const JsonConfig& unet) {
  if (!unet.Has(kSampleSize)) return std::nullopt;
  const std::vector<int64_t> sides = unet.Ints(kSampleSize, {}, 2);
  for (const int64_t side : sides) {
    if (side < 1 || side > kMaxConfigSize) {
      unet.FailAt(kSampleSize, "must be in 1 to " + std::to_string(kMaxConfigSize));
    }
  }
  const LatentSize size{sides[0], sides[1]};
  const bool is_suspect = !unet.IsList(kSampleSize) && size.height < kSmallestOldLatentSize;
  if (is_suspect && IsOld(unet)) return LatentSize{kSmallestOldLatentSize, kSmallestOldLatentSize};
  return size;
}

}  // namespace d2g::model
