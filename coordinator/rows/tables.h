// All persistent rows, as a start reads them from disk. Everything that must survive a restart is
// one of them; all else is derived from them or from what peers report again.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "coordinator/rows/row_changes.h"
#include "coordinator/rows/row_keys.h"
#include "coordinator/rows/table.h"
#include "d2g/coordinator/rows/v1/rows.pb.h"

namespace d2g::coordinator {

// Whether the job succeeded, failed or was cancelled: it no longer needs its dataset.
bool HasEnded(const rows::v1::JobRow& job);

// The parts of the state (coordinator/state) take over one table or a few each. Thread-compatible.
// Ids: job and dataset ids; ChildId(dataset, shard) for seals; ChildId(job, n)
// for failures, checkpoints and snapshots; NumberId for leases and shards; a digest for prompts.
struct Tables {
  Table<rows::v1::JobRow> jobs{kJobPrefix};
  Table<rows::v1::DatasetRow> datasets{kDatasetPrefix};
  Table<rows::v1::SealsRow> seals{kSealsPrefix};
  Table<rows::v1::DroppedDatasetRow> dropped{kDroppedPrefix};
  Table<rows::v1::ShardRow> shards{kShardPrefix};
  Table<rows::v1::LeaseRow> leases{kLeasePrefix};
  Table<rows::v1::FailureRow> failures{kFailurePrefix};
  Table<rows::v1::CheckpointRow> checkpoints{kCheckpointPrefix};
  Table<rows::v1::SnapshotRow> snapshots{kSnapshotPrefix};
  Table<rows::v1::GangRow> gangs{kGangPrefix};
  Table<rows::v1::PromptListRow> prompt_lists{kPromptListPrefix};

  // Takes a row from disk. DATA_LOSS says why it is not taken: its kind is unknown, it cannot be
  // parsed, or what it says cannot be. The meta row is the row store's own and is skipped.
  absl::Status Load(absl::string_view key, const std::string& value);
};

}  // namespace d2g::coordinator
