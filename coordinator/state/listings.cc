#include "coordinator/state/listings.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/state/job_view.h"
#include "coordinator/state/page_token.h"
#include "services/common/status_macros.h"

namespace d2g::coordinator {

using rows::v1::FailureRow;
using rows::v1::JobRow;
using rows::v1::LeaseRow;

namespace {

// The job's tasks that are leased or have failed, by number.
std::map<std::string, v1::TaskInfo> TasksOf(const std::string& job, const Tasks& tasks) {
  std::map<std::string, v1::TaskInfo> infos;
  for (const auto& [id, failure] : tasks.failures().OfJob(job)) {
    v1::TaskInfo& info = infos[NumberId(failure.task())];
    info.set_name(TaskName(job, failure.task()));
    info.set_description(DescribeTask(failure.kind(), failure.range()));
    info.set_failures(failure.reasons_size());
    info.set_last_error(failure.last_error());
  }
  for (const int64_t id : tasks.leases().OfJob(job)) {
    const LeaseRow& lease = *tasks.leases().Find(id);
    const LeaseTable::Progress& progress = *tasks.leases().FindProgress(id);
    v1::TaskInfo& info = infos[NumberId(lease.task())];
    info.set_name(TaskName(job, lease.task()));
    info.set_description(DescribeTask(lease.kind(), lease.range()));
    info.set_worker(lease.worker().id());
    info.set_phase(progress.phase);
    info.set_progress(std::max<int64_t>(0, progress.progress));
  }
  return infos;
}

}  // namespace

v1::Dataset DatasetView(const std::string& id, const ClusterParts& parts, Moment now) {
  const DatasetState& dataset = parts.datasets.At(id);
  v1::Dataset view;
  view.set_name(DatasetName(id));
  *view.mutable_recipe() = dataset.recipe();
  view.set_sealed_count(dataset.sealed().size());
  for (const std::string& job : parts.jobs.UsersOf(id)) view.add_jobs(JobName(job));
  for (const auto& shard : parts.shards.LiveShards(now.steady)) *view.add_shards() = shard;
  return view;
}

absl::StatusOr<v1::ListJobsResponse> ListJobs(const v1::ListJobsRequest& request,
                                              const ClusterParts& parts, Moment now) {
  D2G_ASSIGN_OR_RETURN(Page page, Page::Begin("jobs", request.page_size(), request.page_token()));
  const Jobs::Listing& jobs = parts.jobs.by_sequence();
  v1::ListJobsResponse response;
  // The newest first.
  const auto newest = page.after().empty() ? jobs.end() : jobs.lower_bound(page.after());
  for (auto it = std::make_reverse_iterator(newest); it != jobs.rend(); ++it) {
    if (!page.Take(it->first)) break;
    *response.add_jobs() = ViewOf(*it->second, parts, now);
  }
  response.set_next_page_token(page.next_token());
  return response;
}

absl::StatusOr<v1::ListCheckpointsResponse> ListCheckpoints(
    const v1::ListCheckpointsRequest& request, const ClusterParts& parts) {
  D2G_ASSIGN_OR_RETURN(Page page, Page::Begin(absl::StrCat(request.parent(), "/checkpoints"),
                                              request.page_size(), request.page_token()));
  D2G_ASSIGN_OR_RETURN(const JobRow* job, parts.jobs.FindByName(request.parent()));
  v1::ListCheckpointsResponse response;
  for (const auto& [id, checkpoint] : parts.checkpoints.NewestFirst(job->id())) {
    if (!page.after().empty() && id >= page.after()) continue;
    if (!page.Take(id)) break;
    *response.add_checkpoints() = *checkpoint;
  }
  response.set_next_page_token(page.next_token());
  return response;
}

absl::StatusOr<v1::ListTasksResponse> ListTasks(const v1::ListTasksRequest& request,
                                                const ClusterParts& parts) {
  D2G_ASSIGN_OR_RETURN(Page page, Page::Begin(absl::StrCat(request.parent(), "/tasks"),
                                              request.page_size(), request.page_token()));
  D2G_ASSIGN_OR_RETURN(const JobRow* job, parts.jobs.FindByName(request.parent()));
  std::map<std::string, v1::TaskInfo> tasks = TasksOf(job->id(), parts.tasks);
  v1::ListTasksResponse response;
  for (auto it = tasks.upper_bound(page.after()); it != tasks.end(); ++it) {
    if (!page.Take(it->first)) break;
    *response.add_tasks() = std::move(it->second);
  }
  response.set_next_page_token(page.next_token());
  return response;
}

absl::StatusOr<v1::ListDatasetsResponse> ListDatasets(const v1::ListDatasetsRequest& request,
                                                      const ClusterParts& parts, Moment now) {
  D2G_ASSIGN_OR_RETURN(Page page,
                       Page::Begin("datasets", request.page_size(), request.page_token()));
  const Datasets::States& datasets = parts.datasets.all();
  v1::ListDatasetsResponse response;
  for (auto it = datasets.upper_bound(page.after()); it != datasets.end(); ++it) {
    if (!page.Take(it->first)) break;
    *response.add_datasets() = DatasetView(it->first, parts, now);
  }
  response.set_next_page_token(page.next_token());
  return response;
}

}  // namespace d2g::coordinator
