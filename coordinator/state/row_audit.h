// Which rows of the disk a start can use, and what becomes of those that it cannot.
#pragma once

#include <map>
#include <string>

#include "coordinator/rows/row_changes.h"
#include "coordinator/rows/tables.h"
#include "coordinator/state/dataset_state.h"

namespace d2g::coordinator {

// A row that a start cannot use, and why.
struct UnusableRow {
  RowChange row;  // its bytes, to be set aside
  std::string why;
};

struct AuditedRows {
  // All rows that can be used. What had to be repaired counts as changed.
  Tables tables;
  // By dataset, with what the shards have sealed.
  std::map<std::string, DatasetState, std::less<>> datasets;
  std::vector<UnusableRow> unusable;
};

// Sorts rows into those that a state can be made from and the others, so that one damaged row costs
// what it said and nothing else. A row is unusable when its key is of no known kind, when its bytes
// cannot be parsed or contradict its key, and when what it belongs to is not there: all rows of a
// job go with the job's, seals and leases with the dataset's. What others rest on is repaired:
//   dataset   made again from the recipe that its live jobs keep; where none does, the jobs stay
//             and the caller has to end them
//   gang      begins again far above every generation that there can have been
//   snapshot  the generation that may read it is ended: ranks of one plan must read one snapshot
// Nothing else needs repair: shards report seals and addresses again, a lost lease is given anew, a
// lost failure is forgotten, and training resumes from the checkpoint before a lost one. A lost
// "dropped" row leaves a deleted dataset on its shards: safer than dropping data because of a
// damaged row.
// Pure.
AuditedRows AuditRows(const RowChanges& rows);

}  // namespace d2g::coordinator
