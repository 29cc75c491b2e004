// Pages of what there is, and the view of a dataset.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "coordinator/state/cluster_parts.h"
#include "coordinator/state/moment.h"
#include "d2g/coordinator/v1/dataset_service.pb.h"
#include "d2g/coordinator/v1/job_service.pb.h"

namespace d2g::coordinator {

// REQUIRES: there is a dataset with this id. Pure, as all below.
v1::Dataset DatasetView(const std::string& id, const ClusterParts& parts, Moment now);

// As the services' rpcs of these names promise. INVALID_ARGUMENT for a bad page size or token,
// NOT_FOUND when there is no such parent.
absl::StatusOr<v1::ListJobsResponse> ListJobs(const v1::ListJobsRequest& request,
                                              const ClusterParts& parts, Moment now);
absl::StatusOr<v1::ListCheckpointsResponse> ListCheckpoints(
    const v1::ListCheckpointsRequest& request, const ClusterParts& parts);
absl::StatusOr<v1::ListTasksResponse> ListTasks(const v1::ListTasksRequest& request,
                                                const ClusterParts& parts);
absl::StatusOr<v1::ListDatasetsResponse> ListDatasets(const v1::ListDatasetsRequest& request,
                                                      const ClusterParts& parts, Moment now);

}  // namespace d2g::coordinator
