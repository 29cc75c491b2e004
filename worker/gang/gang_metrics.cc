#include "worker/gang/gang_metrics.h"

#include <algorithm>
#include <array>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "worker/common/rank_figures.h"

namespace d2g::gang {
namespace {

constexpr std::array kPhases = {kPhaseStart,      kPhaseLoad,       kPhaseDataWait, kPhaseStep,
                                kPhaseCheckpoint, kPhaseCommitWait, kPhaseDone};

constexpr char kPhaseHelp[] = "1 for the phase that the rank is in, else 0";

std::string FigureHelp(const std::string& name) { return std::string(RankFigureHelp(name)); }

void CountUp(prometheus::Counter& counter, int now, int* before) {
  counter.Increment(now - *before);
  *before = now;
}

}  // namespace

std::string RankFigureName(const std::string& name) {
  std::string result = "d2g_rank_";
  for (const char c : name) result += absl::ascii_isalnum(c) || c == '_' ? c : '_';
  return result;
}

GangMetrics::GangMetrics(common::Metrics* metrics)
    : metrics_(metrics),
      joins_ok_(
          metrics->Counter("d2g_gang_joins_total", "JoinGang calls by result", {{"result", "ok"}})),
      joins_failed_(metrics->Counter("d2g_gang_joins_total", "JoinGang calls by result",
                                     {{"result", "error"}})),
      heartbeats_ok_(metrics->Counter("d2g_gang_heartbeats_total",
                                      "Heartbeats to the coordinator by result",
                                      {{"result", "ok"}})),
      heartbeats_failed_(metrics->Counter("d2g_gang_heartbeats_total",
                                          "Heartbeats to the coordinator by result",
                                          {{"result", "error"}})),
      generations_(metrics->Counter("d2g_gang_generations_total",
                                    "Generations that this agent took part in")),
      generation_(metrics->Gauge("d2g_gang_generation", "The latest generation here")),
      world_size_(metrics->Gauge("d2g_gang_world_size", "Ranks of the latest generation in all")),
      running_(metrics->Gauge("d2g_gang_running_ranks", "Rank processes that run here")),
      started_(metrics->Counter("d2g_gang_rank_starts_total", "Rank processes started here")),
      finished_(metrics->Counter("d2g_gang_rank_exits_total", "Rank processes that ended, by how",
                                 {{"result", "finished"}})),
      stopped_(metrics->Counter("d2g_gang_rank_exits_total", "Rank processes that ended, by how",
                                {{"result", "stopped"}})),
      died_(metrics->Counter("d2g_gang_rank_exits_total", "Rank processes that ended, by how",
                             {{"result", "died"}})),
      hung_(metrics->Counter("d2g_gang_rank_exits_total", "Rank processes that ended, by how",
                             {{"result", "hung"}})),
      steps_(metrics->Counter("d2g_gang_steps_total",
                              "Optimiser steps that the slowest rank here has done")) {}

void GangMetrics::CountJoin(bool ok) { (ok ? joins_ok_ : joins_failed_).Increment(); }

void GangMetrics::CountHeartbeat(bool ok) {
  (ok ? heartbeats_ok_ : heartbeats_failed_).Increment();
}

void GangMetrics::StartGeneration(const coordinator::v1::GangAssignment& assignment) {
  generations_.Increment();
  generation_.Set(static_cast<double>(assignment.generation()));
  world_size_.Set(assignment.world_size());
  counted_ = {};
  // A rank begins at its checkpoint's step: only what is done from there counts.
  counted_step_ = assignment.work().resume().step();
  RemoveRanks();
}

void GangMetrics::Update(const RankGroup& group) {
  const RankGroup::Counts& now = group.counts();
  CountUp(started_, now.started, &counted_.started);
  CountUp(finished_, now.finished, &counted_.finished);
  CountUp(stopped_, now.stopped, &counted_.stopped);
  CountUp(died_, now.died, &counted_.died);
  CountUp(hung_, now.hung, &counted_.hung);
  running_.Set(group.running());
  const auto ranks = group.ranks();
  CountSteps(ranks);
  if (group.state() != RankGroup::State::kRunning) {
    RemoveRanks();
    return;
  }
  for (const auto& rank : ranks) {
    for (const char* phase : kPhases) {
      prometheus::Gauge& gauge = metrics_->Gauge(
          "d2g_rank_phase", kPhaseHelp, {{"rank", absl::StrCat(rank.rank())}, {"phase", phase}});
      gauge.Set(rank.phase() == phase ? 1 : 0);
      phases_.insert(&gauge);
    }
    SetFigure(rank.rank(), "step", static_cast<double>(rank.step()));
    for (const auto& [name, value] : rank.metrics()) SetFigure(rank.rank(), name, value);
  }
}

void GangMetrics::CountSteps(const std::vector<coordinator::v1::RankStatus>& ranks) {
  if (ranks.empty()) return;
  int64_t slowest = std::numeric_limits<int64_t>::max();
  for (const auto& rank : ranks) slowest = std::min(slowest, rank.step());
  if (slowest <= counted_step_) return;
  steps_.Increment(static_cast<double>(slowest - counted_step_));
  counted_step_ = slowest;
}

void GangMetrics::RemoveRanks() {
  for (prometheus::Gauge* gauge : phases_) metrics_->Remove("d2g_rank_phase", kPhaseHelp, gauge);
  phases_.clear();
  for (const auto& [key, gauge] : figures_) {
    metrics_->Remove(RankFigureName(key.second), FigureHelp(key.second), gauge);
  }
  figures_.clear();
}

void GangMetrics::SetFigure(int rank, const std::string& name, double value) {
  const std::pair key(rank, name);
  auto it = figures_.find(key);
  if (it == figures_.end()) {
    if (!figure_names_.contains(name)) {
      if (figure_names_.size() >= kMaxRankFigures) return;
      figure_names_.insert(name);
    }
    prometheus::Gauge& gauge =
        metrics_->Gauge(RankFigureName(name), FigureHelp(name), {{"rank", absl::StrCat(rank)}});
    it = figures_.emplace(key, &gauge).first;
  }
  it->second->Set(value);
}

}  // namespace d2g::gang
