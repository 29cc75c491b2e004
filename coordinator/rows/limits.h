// The coordinator's limits and intervals. Each one that can refuse a request is stated in the
// error.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/time/time.h"

namespace d2g::coordinator {

// Requests.
inline constexpr int kMaxRequestIdBytes = 128;
inline constexpr int kMaxIdBytes = 128;  // worker and agent ids, node names, devices, builds
inline constexpr int kDefaultPageSize = 50;
inline constexpr int kMaxPageSize = 1000;
// Prompt lists that are uploaded at once: each is in memory until it is stored.
inline constexpr size_t kMaxPromptUploads = 4;
inline constexpr int32_t kMaxShards = 1024;
inline constexpr int32_t kMaxAgentSlots = 64;
inline constexpr int kMaxReportedMetrics = 64;

// Failures.
inline constexpr int kMaxTaskFailures = 5;        // of one range, evaluation or export
inline constexpr int kMaxBrokenGenerations = 10;  // without a new checkpoint
// Fewer minutes than this from the first to the last do not count as too many failures: what broke
// may be a folder or a driver that is away for a while.
inline constexpr absl::Duration kTaskFailureSpan = absl::Minutes(5);

// Times.
// An upload that takes longer is cancelled: it keeps others out.
inline constexpr absl::Duration kMaxUploadTime = absl::Minutes(10);
inline constexpr absl::Duration kTick = absl::Milliseconds(200);
inline constexpr absl::Duration kPollAfter = absl::Milliseconds(500);
inline constexpr absl::Duration kShardHeartbeat = absl::Seconds(2);
inline constexpr absl::Duration kShardTimeout = absl::Seconds(10);
inline constexpr absl::Duration kWorkerTimeout = absl::Seconds(30);
inline constexpr absl::Duration kGangHeartbeat = absl::Seconds(1);
inline constexpr absl::Duration kMaxTaskHeartbeat = absl::Seconds(10);
inline constexpr absl::Duration kMaxGangBackoff = absl::Seconds(30);
// How long an agent whose ranks did not start is left out: this, doubled each time it happens.
inline constexpr absl::Duration kFirstLeftOut = absl::Minutes(1);
inline constexpr absl::Duration kMaxLeftOut = absl::Minutes(30);
// Ranks that take longer than this to start are worth a word.
inline constexpr absl::Duration kSlowStart = absl::Seconds(10);
inline constexpr absl::Duration kFirstTaskBackoff = absl::Seconds(1);
inline constexpr absl::Duration kMaxTaskBackoff = absl::Seconds(30);
// How long a job whose tasks only fail stands behind the others once its back-off has passed.
inline constexpr absl::Duration kMaxTrialDelay = absl::Minutes(1);
inline constexpr absl::Duration kRateWindow = absl::Seconds(30);

}  // namespace d2g::coordinator
