#include "coordinator/state/row_audit.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "coordinator/spec/dataset_id.h"

namespace d2g::coordinator {
namespace {

using rows::v1::GangRow;
using rows::v1::JobRow;

// No job had so many generations since its last checkpoint.
constexpr int64_t kGenerationLeap = 1'000'000;

class Audit {
 public:
  explicit Audit(const RowChanges& rows) {
    for (const RowChange& row : rows) {
      if (row.value.has_value()) bytes_[row.key] = &*row.value;
    }
  }

  AuditedRows Run() {
    for (const auto& [key, value] : bytes_) {
      const absl::Status read = result_.tables.Load(key, *value);
      if (!read.ok()) SetAside(key, std::string(read.message()));
    }
    RemakeDatasets();
    SetAsideOrphans();
    LoadDatasets();
    RepairGangs();
    return std::move(result_);
  }

 private:
  Tables& tables() { return result_.tables; }

  void SetAside(const std::string& key, std::string why) {
    result_.unusable.push_back({{key, *bytes_.at(key), /*set_aside=*/true}, std::move(why)});
  }

  // Sets aside the rows for which `fault` says something.
  template <typename Row, typename Fault>
  void Sweep(Table<Row>* table, Fault fault) {
    std::vector<std::pair<std::string, std::string>> bad;
    for (const auto& [id, row] : table->rows()) {
      std::string why = fault(id, row);
      if (!why.empty()) bad.emplace_back(id, std::move(why));
    }
    for (auto& [id, why] : bad) {
      table->Unload(id);
      SetAside(absl::StrCat(table->prefix(), id), std::move(why));
    }
  }

  void RemakeDatasets() {
    for (const auto& [id, job] : tables().jobs.rows()) {
      if (HasEnded(job) || tables().datasets.Find(job.dataset()) != nullptr || !job.has_recipe() ||
          DatasetId(job.recipe()) != job.dataset()) {
        continue;
      }
      auto& dataset = tables().datasets.Mutable(job.dataset());
      *dataset.mutable_recipe() = job.recipe();
      *dataset.mutable_create_time() = job.create_time();
    }
  }

  std::string NoJob(absl::string_view job) {
    return tables().jobs.Find(job) == nullptr ? absl::StrCat("there is no row of its job ", job)
                                              : "";
  }
  std::string NoDataset(absl::string_view dataset) {
    return tables().datasets.Find(dataset) == nullptr
               ? absl::StrCat("there is no row of its dataset ", dataset)
               : "";
  }

  void SetAsideOrphans() {
    const auto child_of_job = [this](const std::string& id, const auto&) {
      return NoJob(ParseChildId(id)->parent);
    };
    Sweep(&tables().failures, child_of_job);
    Sweep(&tables().checkpoints, child_of_job);
    Sweep(&tables().snapshots, child_of_job);
    Sweep(&tables().gangs, [this](const std::string& id, const GangRow&) { return NoJob(id); });
    Sweep(&tables().leases, [this](const std::string&, const rows::v1::LeaseRow& lease) {
      if (std::string why = NoJob(lease.job()); !why.empty()) return why;
      const std::string& dataset = tables().jobs.Find(lease.job())->dataset();
      return dataset == lease.dataset()
                 ? NoDataset(dataset)
                 : absl::StrCat("its dataset ", lease.dataset(), " is not its job's, ", dataset);
    });
    Sweep(&tables().dropped, [this](const std::string& id, const rows::v1::DroppedDatasetRow&) {
      return NoDataset(id).empty() ? "the dataset is in use" : "";
    });
  }

  void LoadDatasets() {
    for (const auto& [id, row] : tables().datasets.rows()) {
      result_.datasets.try_emplace(id, row.recipe());
    }
    Sweep(&tables().seals, [this](const std::string& id, const rows::v1::SealsRow& row) {
      const ParsedChildId parsed = *ParseChildId(id);
      const auto dataset = result_.datasets.find(parsed.parent);
      if (dataset == result_.datasets.end()) return NoDataset(parsed.parent);
      return std::string(
          dataset->second.LoadShard(static_cast<int32_t>(parsed.number), row).message());
    });
  }

  void RepairGangs() {
    for (const UnusableRow& unusable : result_.unusable) {
      absl::string_view id = unusable.row.key;
      if (absl::ConsumePrefix(&id, kGangPrefix)) {
        const JobRow* job = tables().jobs.Find(id);
        if (job != nullptr && !HasEnded(*job)) {
          tables().gangs.Mutable(id).set_generation(LastKnownGeneration(id) + kGenerationLeap);
        }
      } else if (absl::ConsumePrefix(&id, kSnapshotPrefix)) {
        const auto parsed = ParseChildId(id);
        const GangRow* gang = parsed ? tables().gangs.Find(parsed->parent) : nullptr;
        if (gang == nullptr || !gang->active()) continue;
        GangRow& ended = tables().gangs.Mutable(parsed->parent);
        ended.set_active(false);
        ended.set_leaving(false);
      }
    }
  }

  int64_t LastKnownGeneration(absl::string_view job) {
    int64_t last = 0;
    for (const auto& [id, row] : tables().checkpoints.Children(job)) {
      last = std::max(last, row.checkpoint().generation());
    }
    return last;
  }

  std::map<std::string, const std::string*> bytes_;
  AuditedRows result_;
};

}  // namespace

AuditedRows AuditRows(const RowChanges& rows) { return Audit(rows).Run(); }

}  // namespace d2g::coordinator
