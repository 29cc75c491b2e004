// One rank process, from its launch file to the end of training.
#pragma once

#include <atomic>

#include "absl/status/statusor.h"
#include "worker/gang/rank_channel.h"
#include "worker/rank/training_loop.h"

namespace d2g::rank {

// Meets the other ranks, loads the teacher and, when the assignment says so, the checkpoint, then
// trains. Blocks until the end; `stop` set by another thread means "checkpoint at the next step and
// leave". Rank 0 makes output_dir the job's first (services/common/output_folder.h). Errors are the
// caller's to show: INVALID_ARGUMENT and FAILED_PRECONDITION for what the job asks, DATA_LOSS for
// damaged files, UNAVAILABLE for peers that never came.
absl::StatusOr<TrainingEnd> RunRank(const gang::RankLaunch& launch, int rank,
                                    gang::RankStatusWriter* status, const std::atomic<bool>& stop);

}  // namespace d2g::rank
