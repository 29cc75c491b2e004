#include "coordinator/rows/tables.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "coordinator/rows/limits.h"
#include "services/spec/field_rules.h"

namespace d2g::coordinator {

using v1::Job;
using v1::TASK_KIND_SIMULATE;
using v1::TASK_KIND_UNSPECIFIED;
using v1::TaskKind_IsValid;

namespace {

// What is wrong with a row that was parsed; empty when it may be used. Whatever the code elsewhere
// takes for granted of a row is checked here.

constexpr char kBadId[] = "its key is none";
constexpr char kOtherKey[] = "its key is another one's";

std::string Fault(absl::string_view id, const rows::v1::JobRow& row) {
  if (!ParseJobName(JobName(id)).ok()) return kBadId;
  if (row.id() != id) return kOtherKey;
  if (row.state() == Job::STATE_UNSPECIFIED || !Job::State_IsValid(row.state()) ||
      !Job::DesiredState_IsValid(row.desired_state())) {
    return "its state is none";
  }
  const int64_t triples = row.spec().simulate().triples();
  if (triples < 1 || triples > spec::Largest(*v1::SimulateSpec::descriptor(), "triples"))
    return "it has no number of triples";
  return "";
}

std::string Fault(absl::string_view id, const rows::v1::DatasetRow& row) {
  if (!ParseDatasetName(DatasetName(id)).ok()) return kBadId;
  const auto& recipe = row.recipe();
  if (recipe.block_size() < 1 || recipe.shard_count() < 1 || recipe.shard_count() > kMaxShards ||
      recipe.holdout_every() < 1) {
    return "its recipe has no block size, shards or holdout";
  }
  return "";
}

std::string Fault(absl::string_view id, const rows::v1::SealsRow&) {
  const auto parsed = ParseChildId(id);
  return parsed.has_value() && parsed->number < kMaxShards ? "" : kBadId;
}

std::string Fault(absl::string_view id, const rows::v1::DroppedDatasetRow&) {
  return ParseDatasetName(DatasetName(id)).ok() ? "" : kBadId;
}

std::string Fault(absl::string_view id, const rows::v1::ShardRow& row) {
  const auto& address = row.address();
  if (address.shard() < 0 || NumberId(address.shard()) != id) return kOtherKey;
  return address.address().empty() || address.store_uuid().empty() ? "it says nothing" : "";
}

bool IsRange(const common::v1::IndexRange& range) {
  return range.begin() >= 0 && range.begin() < range.end();
}

std::string WorkFault(int kind, const common::v1::IndexRange& range) {
  if (kind == TASK_KIND_UNSPECIFIED || !TaskKind_IsValid(kind)) return "its kind of task is none";
  return kind == TASK_KIND_SIMULATE && !IsRange(range) ? "its range is none" : "";
}

std::string Fault(absl::string_view id, const rows::v1::LeaseRow& row) {
  if (row.lease_id() < 0 || NumberId(row.lease_id()) != id) return kOtherKey;
  return WorkFault(row.kind(), row.range());
}

std::string Fault(absl::string_view id, const rows::v1::FailureRow& row) {
  if (!ParseChildId(id).has_value()) return kBadId;
  if (row.task() < 0 || ChildId(row.job(), row.task()) != id) return kOtherKey;
  return WorkFault(row.kind(), row.range());
}

std::string Fault(absl::string_view id, const rows::v1::CheckpointRow& row) {
  const auto parsed = ParseChildId(id);
  if (!parsed.has_value()) return kBadId;
  return row.checkpoint().step() == parsed->number ? "" : kOtherKey;
}

std::string Fault(absl::string_view id, const rows::v1::SnapshotRow& row) {
  if (!ParseChildId(id).has_value()) return kBadId;
  for (const auto& range : row.ranges()) {
    if (!IsRange(range)) return "one of its ranges is none";
  }
  return "";
}

std::string Fault(absl::string_view id, const rows::v1::GangRow&) {
  return ParseJobName(JobName(id)).ok() ? "" : kBadId;
}

std::string Fault(absl::string_view id, const rows::v1::PromptListRow& row) {
  if (id.empty()) return kBadId;
  return row.prompt_count() > 0 && row.chunks() >= 0 ? "" : "it counts no prompts";
}

// Into the table, when its bytes are a row that may be used.
template <typename Row>
absl::Status LoadInto(Table<Row>* table, absl::string_view id, const std::string& value) {
  Row row;
  if (!row.ParseFromString(value)) return absl::DataLossError("it cannot be parsed");
  const std::string fault = Fault(id, row);
  if (!fault.empty()) return absl::DataLossError(fault);
  table->Load(id, std::move(row));
  return absl::OkStatus();
}

// Calls visit(table) for each table.
template <typename T, typename Visit>
void ForEachTable(T& tables, Visit visit) {
  visit(tables.jobs);
  visit(tables.datasets);
  visit(tables.seals);
  visit(tables.dropped);
  visit(tables.shards);
  visit(tables.leases);
  visit(tables.failures);
  visit(tables.checkpoints);
  visit(tables.snapshots);
  visit(tables.gangs);
  visit(tables.prompt_lists);
}

}  // namespace

bool HasEnded(const rows::v1::JobRow& job) {
  return job.state() == Job::STATE_CANCELLED || job.state() == Job::STATE_SUCCEEDED ||
         job.state() == Job::STATE_FAILED;
}

absl::Status Tables::Load(absl::string_view key, const std::string& value) {
  if (key == kMetaKey) return absl::OkStatus();
  bool found = false;
  absl::Status status;
  ForEachTable(*this, [&](auto& table) {
    absl::string_view id = key;
    if (found || !absl::ConsumePrefix(&id, table.prefix())) return;
    found = true;
    status = LoadInto(&table, id, value);
  });
  if (!found) return absl::DataLossError("it is of no known kind");
  return status;
}

}  // namespace d2g::coordinator
