#include "coordinator/spec/dataset_id.h"

#include <xxhash.h>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"

namespace d2g::coordinator {

std::string DatasetId(const common::v1::DatasetRecipe& recipe) {
  common::v1::DatasetRecipe known = recipe;
  known.DiscardUnknownFields();
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    known.SerializeToCodedStream(&coded);
  }
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes.data(), bytes.size()));
  return absl::BytesToHexString(
             absl::string_view(reinterpret_cast<const char*>(canonical.digest), 16))
      .substr(0, 16);
}

}  // namespace d2g::coordinator
