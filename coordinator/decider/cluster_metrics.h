// The coordinator's metrics.
#pragma once

#include <functional>
#include <vector>

#include "coordinator/state/cluster_figures.h"
#include "services/common/metrics.h"

namespace d2g::coordinator {

// All families exist from the start. Show may be called from one thread at a time.
class ClusterMetrics {
 public:
  explicit ClusterMetrics(common::Metrics* metrics);

  // Sets gauges, and moves counters to the totals.
  void Show(const ClusterFigures& figures);

  prometheus::Histogram& commit_seconds() { return *commit_seconds_; }
  prometheus::Counter& rows_written() { return *rows_written_; }
  prometheus::Gauge& incarnation() { return *incarnation_; }
  prometheus::Gauge& rows_set_aside() { return *rows_set_aside_; }

 private:
  void Count(const std::string& name, const std::string& help,
             const common::Metrics::Labels& labels,
             std::function<int64_t(const ClusterFigures&)> figure);
  void Gauge(const std::string& name, const std::string& help,
             const common::Metrics::Labels& labels,
             std::function<int64_t(const ClusterFigures&)> figure);

  common::Metrics* metrics_;
  std::vector<std::function<void(const ClusterFigures&)>> shows_;
  prometheus::Histogram* commit_seconds_;
  prometheus::Counter* rows_written_;
  prometheus::Gauge* incarnation_;
  prometheus::Gauge* rows_set_aside_;
};

}  // namespace d2g::coordinator
