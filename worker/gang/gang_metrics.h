// What a gang agent exports: what it does itself and its ranks' figures, labelled by rank.
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "d2g/coordinator/v1/training_service.pb.h"
#include "services/common/metrics.h"
#include "worker/gang/rank_group.h"

namespace d2g::gang {

// What ranks report is exported as d2g_rank_{name} with the help of worker/common/rank_figures.h. A
// rank of another version may have other names; at most this many are taken, so that a broken one
// cannot fill the registry.
inline constexpr size_t kMaxRankFigures = 64;

// The Prometheus name of a rank's figure: "d2g_rank_" and the name with everything but letters,
// digits and "_" replaced by "_".
std::string RankFigureName(const std::string& name);

// CountJoin and CountHeartbeat may be called from another thread than the rest.
class GangMetrics {
 public:
  // `metrics` is not owned and outlives this.
  explicit GangMetrics(common::Metrics* metrics);

  void CountJoin(bool ok);
  void CountHeartbeat(bool ok);
  void StartGeneration(const coordinator::v1::GangAssignment& assignment);
  // Brings counters and figures up to date with a group. Ranks have figures while their group runs:
  // a series that stayed would be taken for a living rank.
  void Update(const RankGroup& group);

 private:
  void CountSteps(const std::vector<coordinator::v1::RankStatus>& ranks);
  void RemoveRanks();
  void SetFigure(int rank, const std::string& name, double value);

  common::Metrics* const metrics_;
  prometheus::Counter& joins_ok_;
  prometheus::Counter& joins_failed_;
  prometheus::Counter& heartbeats_ok_;
  prometheus::Counter& heartbeats_failed_;
  prometheus::Counter& generations_;
  prometheus::Gauge& generation_;
  prometheus::Gauge& world_size_;
  prometheus::Gauge& running_;
  prometheus::Counter& started_;
  prometheus::Counter& finished_;
  prometheus::Counter& stopped_;
  prometheus::Counter& died_;
  prometheus::Counter& hung_;
  prometheus::Counter& steps_;
  // What has been counted of the current group.
  RankGroup::Counts counted_;
  int64_t counted_step_ = 0;
  std::set<std::string> figure_names_;
  // What ranks have, to be removed with them.
  std::set<prometheus::Gauge*> phases_;
  std::map<std::pair<int, std::string>, prometheus::Gauge*> figures_;
};

}  // namespace d2g::gang
