// Reads held-out triples from the store.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "d2g/coordinator/v1/task_service.pb.h"
#include "d2g/store/v1/triple_service.pb.h"
#include "worker/evaluate/held_out.h"

namespace d2g::evaluate {

// Reads up to store::IndicesPerRead triples of one shard, in the order asked for; retries by itself
// while the shard cannot be reached.
using ReadTriples = std::function<absl::StatusOr<std::vector<store::v1::Triple>>(
    int shard, const std::vector<int64_t>& indices)>;

// The first `pictures` sealed held-out triples (fewer when there are fewer), with the noise made
// anew and checked against the stored checksum. A triple that is damaged or gone is left out and
// logged. `prompts` is the dataset's list. `on_read` is called after each read.
// INVALID_ARGUMENT: the dataset holds nothing out, or the list is not the recipe's.
// FAILED_PRECONDITION: fewer than 2 can be read. Else what `read` returned.
absl::StatusOr<HeldOut> ReadHeldOut(const coordinator::v1::EvaluateWork& work,
                                    const std::vector<std::string>& prompts,
                                    const ReadTriples& read,
                                    const std::function<absl::Status()>& on_read);

}  // namespace d2g::evaluate
