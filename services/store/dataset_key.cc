#include "services/store/dataset_key.h"

#include "absl/strings/str_cat.h"

namespace d2g::store {

absl::Status CheckKey(const v1::DatasetKey& key, const TripleStore& store) {
  if (key.shard() != store.shard()) {
    return absl::FailedPreconditionError(
        absl::StrCat("this is shard ", store.shard(), ", the request is for shard ", key.shard()));
  }
  if (!key.store_uuid().empty() && key.store_uuid() != store.uuid()) {
    return absl::FailedPreconditionError(
        absl::StrCat("this is store ", store.uuid(), ", the request is for store ",
                     key.store_uuid(), " (was the volume swapped?)"));
  }
  return absl::OkStatus();
}

}  // namespace d2g::store
