// Limits of the append stream and of reads, kept by client and server.
#pragma once

#include <cstdint>

#include "d2g/common/v1/recipe.pb.h"

namespace d2g::store {

// Limits of one Batch message. A single triple may be larger than kMaxBatchBytes.
inline constexpr int kMaxBatchTriples = 64;
inline constexpr int64_t kMaxBatchBytes = 4 << 20;

// Unacknowledged bytes that a client's session keeps in flight.
inline constexpr int64_t kMaxOutstandingBytes = 8 << 20;

// Triples that one ReadTriples call may ask for at most.
inline constexpr int kMaxReadIndices = 64;
// Bytes of latents in one ReadTriples answer; leaves room for headers below the message limit.
inline constexpr int64_t kMaxReadBytes = 15 << 20;
// Triples that one ReadTriples call may ask for: as many as both limits take, and at least one.
int64_t IndicesPerRead(const common::v1::DatasetRecipe& recipe);

// What the server reads ahead of the disk on one append stream.
inline constexpr int64_t kMaxStreamBufferBytes = 8 << 20;
// What the server makes durable together from one stream.
inline constexpr int64_t kMaxCommitBytes = 8 << 20;

}  // namespace d2g::store
