// Limits of the append stream and of reads, kept by client and server.
#pragma once

#include <cstdint>

namespace d2g::store {

// Of one Batch message. One triple may be larger than kMaxBatchBytes on its own.
inline constexpr int kMaxBatchTriples = 64;
inline constexpr int64_t kMaxBatchBytes = 4 << 20;

// Unacknowledged bytes that a client's session keeps in flight.
inline constexpr int64_t kMaxOutstandingBytes = 8 << 20;

// Of one ReadTriples call.
inline constexpr int kMaxReadIndices = 64;
// Of latents in one ReadTriples answer; leaves room for headers below the message limit.
inline constexpr int64_t kMaxReadBytes = 15 << 20;

// What the server reads ahead of the disk on one append stream.
inline constexpr int64_t kMaxStreamBufferBytes = 8 << 20;
// What the server makes durable together from one stream.
inline constexpr int64_t kMaxCommitBytes = 8 << 20;

}  // namespace d2g::store
