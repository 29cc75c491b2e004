// The guard that every request carries: which shard of which store the caller believes to talk to.
#pragma once

#include "absl/status/status.h"
#include "d2g/store/v1/triple_service.pb.h"
#include "services/store/triple_store.h"

namespace d2g::store {

// FAILED_PRECONDITION when shard number or (non-empty) uuid are not this store's.
absl::Status CheckKey(const v1::DatasetKey& key, const TripleStore& store);

}  // namespace d2g::store
