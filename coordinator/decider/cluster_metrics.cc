#include "coordinator/decider/cluster_metrics.h"

#include <string>
#include <utility>

#include "coordinator/state/task_kinds.h"

namespace d2g::coordinator {

using v1::FailTaskRequest;
using v1::Job;

ClusterMetrics::ClusterMetrics(common::Metrics* metrics) : metrics_(metrics) {
  for (const auto& [kind, stage, name] : kTaskKinds) {
    const int k = kind;
    Count("d2g_coordinator_tasks_leased_total", "Leases granted.", {{"kind", name}},
          [k](const ClusterFigures& f) { return f.leased[k]; });
    Count("d2g_coordinator_tasks_completed_total", "Leased tasks that were completed.",
          {{"kind", name}}, [k](const ClusterFigures& f) { return f.completed[k]; });
    Count("d2g_coordinator_tasks_lapsed_total", "Leases that lapsed for want of progress.",
          {{"kind", name}}, [k](const ClusterFigures& f) { return f.lapsed[k]; });
    Gauge("d2g_coordinator_leases", "Live leases.", {{"kind", name}},
          [k](const ClusterFigures& f) { return f.live_leases[k]; });
  }
  const std::pair<int, const char*> reasons[] = {
      {FailTaskRequest::REASON_UNSPECIFIED, "unspecified"},
      {FailTaskRequest::REASON_PREEMPTED, "preempted"},
      {FailTaskRequest::REASON_ERROR, "error"},
      {FailTaskRequest::REASON_BAD_INPUT, "bad_input"},
      {FailTaskRequest::REASON_STORE_UNAVAILABLE, "store_unavailable"}};
  for (const auto& [reason, name] : reasons) {
    const int r = reason;
    Count("d2g_coordinator_tasks_failed_total", "Leased tasks that were given back.",
          {{"reason", name}}, [r](const ClusterFigures& f) { return f.failed[r]; });
  }
  const std::pair<int, const char*> states[] = {{Job::STATE_RUNNING, "running"},
                                                {Job::STATE_PAUSED, "paused"},
                                                {Job::STATE_CANCELLED, "cancelled"},
                                                {Job::STATE_SUCCEEDED, "succeeded"},
                                                {Job::STATE_FAILED, "failed"}};
  for (const auto& [state, name] : states) {
    const int s = state;
    Gauge("d2g_coordinator_jobs", "Jobs by state.", {{"state", name}},
          [s](const ClusterFigures& f) { return f.jobs[s]; });
  }
  Count("d2g_coordinator_triples_sealed_total", "Triples that became known as sealed.", {},
        [](const ClusterFigures& f) { return f.triples_sealed; });
  Count("d2g_coordinator_triples_reopened_total",
        "Triples known as sealed that a shard turned out not to hold.", {},
        [](const ClusterFigures& f) { return f.triples_reopened; });
  Gauge("d2g_coordinator_sealed_triples", "Sealed triples of all datasets.", {},
        [](const ClusterFigures& f) { return f.sealed_triples; });
  Count("d2g_coordinator_generations_formed_total", "Gang generations formed.", {},
        [](const ClusterFigures& f) { return f.generations_formed; });
  Count("d2g_coordinator_generations_broken_total", "Gang generations that broke.", {},
        [](const ClusterFigures& f) { return f.generations_broken; });
  Count("d2g_coordinator_checkpoints_committed_total", "Checkpoints committed.", {},
        [](const ClusterFigures& f) { return f.checkpoints_committed; });
  Gauge("d2g_coordinator_workers", "Workers heard of lately.", {},
        [](const ClusterFigures& f) { return f.live_workers; });
  Gauge("d2g_coordinator_shards", "Store shards heard of lately.", {},
        [](const ClusterFigures& f) { return f.live_shards; });
  Gauge("d2g_coordinator_agents", "Gang agents heard of lately.", {},
        [](const ClusterFigures& f) { return f.agents; });
  Gauge("d2g_coordinator_ranks", "Ranks that report in.", {},
        [](const ClusterFigures& f) { return f.ranks_running; });
  Gauge("d2g_coordinator_training_step",
        "Optimiser step of the training that runs; of the oldest job where several do.", {},
        [](const ClusterFigures& f) { return f.training_step; });
  commit_seconds_ = &metrics_->Histogram("d2g_coordinator_commit_seconds",
                                         "Time to write and sync a group of decisions.");
  rows_written_ =
      &metrics_->Counter("d2g_coordinator_rows_written_total", "Rows written or deleted durably.");
  incarnation_ = &metrics_->Gauge("d2g_coordinator_incarnation", "Starts of this data folder.");
  rows_set_aside_ =
      &metrics_->Gauge("d2g_coordinator_rows_set_aside",
                       "Rows of this data folder that a start could not use and keeps "
                       "aside.");
}

void ClusterMetrics::Count(const std::string& name, const std::string& help,
                           const common::Metrics::Labels& labels,
                           std::function<int64_t(const ClusterFigures&)> figure) {
  prometheus::Counter* counter = &metrics_->Counter(name, help, labels);
  shows_.emplace_back([counter, figure = std::move(figure)](const ClusterFigures& figures) {
    const double more = static_cast<double>(figure(figures)) - counter->Value();
    if (more > 0) counter->Increment(more);
  });
}

void ClusterMetrics::Gauge(const std::string& name, const std::string& help,
                           const common::Metrics::Labels& labels,
                           std::function<int64_t(const ClusterFigures&)> figure) {
  prometheus::Gauge* gauge = &metrics_->Gauge(name, help, labels);
  shows_.emplace_back([gauge, figure = std::move(figure)](const ClusterFigures& figures) {
    gauge->Set(static_cast<double>(figure(figures)));
  });
}

void ClusterMetrics::Show(const ClusterFigures& figures) {
  for (const auto& show : shows_) show(figures);
}

}  // namespace d2g::coordinator
