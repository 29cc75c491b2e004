#include "worker/gang/gang_agent.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "services/common/deadline.h"
#include "services/common/log.h"
#include "services/common/proto_duration.h"
#include "services/common/retry.h"

namespace d2g::gang {
namespace {

using coordinator::v1::GangAssignment;
using coordinator::v1::GangHeartbeatRequest;
using coordinator::v1::GangHeartbeatResponse;

// Between looks at the ranks when nothing happens: bounds how late a hang is seen.
constexpr absl::Duration kTick = absl::Milliseconds(500);
constexpr absl::Duration kShortestInterval = absl::Milliseconds(10);
constexpr absl::Duration kFirstRetry = absl::Milliseconds(200);
constexpr absl::Duration kLongestRetry = absl::Seconds(5);
// How long a drained agent tries to say goodbye.
constexpr absl::Duration kGoodbyeTimeout = absl::Seconds(2);

}  // namespace

GangAgent::GangAgent(GangAgentOptions options, coordinator::CoordinatorClient* client,
                     common::Metrics* metrics)
    : options_(std::move(options)), client_(client), metrics_(metrics) {}

GangAgent::~GangAgent() = default;

void GangAgent::Drain() {
  absl::MutexLock lock(&mutex_);
  draining_ = true;
  changed_ = true;
}

void GangAgent::Wake() {
  absl::MutexLock lock(&mutex_);
  changed_ = true;
}

bool GangAgent::Run() {
  {
    absl::MutexLock lock(&mutex_);
    report_ = Report(/*draining=*/false);
  }
  std::thread talker([this] { Talk(); });
  bool done = false;
  bool announced_drain = false;
  bool ran_at_drain = false;
  while (!done) {
    const std::optional<HeartbeatResponse> answer = WaitForWork();
    bool draining;
    {
      absl::MutexLock lock(&mutex_);
      draining = draining_;
    }
    if (answer && !draining) Obey(*answer);
    if (draining && group_ != nullptr) {
      ran_at_drain |= group_->state() == RankGroup::State::kRunning;
      group_->RequestLeave();
    }
    bool report_now = LookAtRanks();
    if (draining && !announced_drain) {
      common::LogInfo("draining: ranks checkpoint and leave");
      announced_drain = report_now = true;
    }
    done = draining && (group_ == nullptr || group_->state() != RankGroup::State::kRunning);
    absl::MutexLock lock(&mutex_);
    report_ = Report(draining);
    report_now_ |= report_now;
    done_ = done;
    if (answer) answer_pending_ = false;
  }
  talker.join();
  // A rank that finished did so with all others, behind the last checkpoint.
  const bool left_work = ran_at_drain && group_->counts().finished == 0;
  group_.reset();
  return left_work;
}

std::optional<GangHeartbeatResponse> GangAgent::WaitForWork() {
  absl::MutexLock lock(&mutex_);
  const auto work = [this]()
                        ABSL_NO_THREAD_SAFETY_ANALYSIS { return changed_ || answer_.has_value(); };
  mutex_.AwaitWithTimeout(absl::Condition(&work), kTick);
  changed_ = false;
  return std::exchange(answer_, std::nullopt);
}

void GangAgent::Obey(const HeartbeatResponse& answer) {
  switch (answer.action()) {
    case GangHeartbeatResponse::ACTION_RUN:
      StartGeneration(answer.assignment());
      return;
    case GangHeartbeatResponse::ACTION_CHECKPOINT_AND_LEAVE:
      if (group_ != nullptr) group_->RequestLeave();
      return;
    case GangHeartbeatResponse::ACTION_IDLE:
      if (group_ == nullptr) return;
      group_->Kill("the coordinator said that nothing should run");
      group_forgotten_ = true;
      return;
    default:
      common::LogWarn("ignored an unknown action of the coordinator",
                      {{"action", static_cast<int>(answer.action())}});
  }
}

void GangAgent::StartGeneration(const GangAssignment& assignment) {
  if (group_ != nullptr && group_->launch().assignment.job() == assignment.job() &&
      group_->launch().assignment.generation() == assignment.generation()) {
    group_forgotten_ = false;
    if (!assignment.rendezvous().empty()) group_->SetRendezvous(assignment.rendezvous());
    return;
  }
  if (group_ != nullptr) {
    group_->Kill("another generation takes its place");
    metrics_.Update(*group_);
    group_.reset();
  }
  RankLaunch launch = options_.launch;
  launch.assignment = assignment;
  RankGroupOptions ranks = options_.ranks;
  ranks.on_change = [this] { Wake(); };
  group_forgotten_ = false;
  seen_rendezvous_.clear();
  seen_state_ = RankGroup::State::kRunning;
  metrics_.StartGeneration(assignment);
  group_ = std::make_unique<RankGroup>(std::move(launch), std::move(ranks));
  // The answer that started it is followed by a report that it runs.
  Wake();
}

bool GangAgent::LookAtRanks() {
  if (group_ == nullptr) return false;
  const RankGroup::State state = group_->Poll();
  metrics_.Update(*group_);
  bool changed = std::exchange(seen_state_, state) != state;
  if (std::string address = group_->rendezvous(); address != seen_rendezvous_) {
    seen_rendezvous_ = std::move(address);
    changed = true;
  }
  return changed;
}

GangHeartbeatRequest GangAgent::Report(bool draining) const {
  HeartbeatRequest report;
  report.set_agent(options_.agent);
  report.set_state(draining ? GangHeartbeatRequest::AGENT_STATE_DRAINING
                            : GangHeartbeatRequest::AGENT_STATE_IDLE);
  if (group_ == nullptr || group_forgotten_) return report;
  const GangAssignment& assignment = group_->launch().assignment;
  report.set_job(assignment.job());
  report.set_generation(assignment.generation());
  for (auto& rank : group_->ranks()) *report.add_ranks() = std::move(rank);
  switch (group_->state()) {
    case RankGroup::State::kRunning:
      if (!draining) report.set_state(GangHeartbeatRequest::AGENT_STATE_RUNNING);
      if (group_->has_rank_zero()) report.set_rendezvous(group_->rendezvous());
      break;
    case RankGroup::State::kLeft:
      if (draining) report.clear_ranks();
      if (!draining) report.set_state(GangHeartbeatRequest::AGENT_STATE_LEFT);
      break;
    case RankGroup::State::kBroken:
      if (draining) report.clear_ranks();
      if (!draining) report.set_state(GangHeartbeatRequest::AGENT_STATE_BROKEN);
      report.set_error(group_->error());
      report.set_failure(group_->failure());
      report.set_failed_step(group_->failed_step());
      break;
  }
  return report;
}

bool GangAgent::SleepFor(absl::Duration duration) {
  absl::MutexLock lock(&mutex_);
  return !mutex_.AwaitWithTimeout(absl::Condition(&done_), duration);
}

bool GangAgent::Join() {
  coordinator::v1::JoinGangRequest request;
  request.set_agent(options_.agent);
  request.set_node(options_.node);
  request.set_slots(options_.slots);
  request.set_device(options_.device_name);
  request.set_build(options_.build);
  common::Backoff backoff({.initial = kFirstRetry, .max = kLongestRetry});
  while (true) {
    const auto joined = client_->JoinGang(request, common::DeadlineIn(options_.rpc_timeout));
    metrics_.CountJoin(joined.ok());
    if (joined.ok()) {
      common::LogInfo("joined the gang", {{"agent", options_.agent}, {"slots", options_.slots}});
      absl::MutexLock lock(&mutex_);
      heartbeat_interval_ =
          std::max(common::FromProto(joined->heartbeat_interval()), kShortestInterval);
      report_now_ = true;
      return true;
    }
    common::LogWarn("cannot join the gang", {{"error", joined.status()}});
    if (!SleepFor(backoff.Next())) return false;
  }
}

void GangAgent::Talk() {
  if (!Join()) return;
  common::Backoff backoff({.initial = kFirstRetry, .max = kLongestRetry});
  while (true) {
    HeartbeatRequest report;
    bool last;
    {
      absl::MutexLock lock(&mutex_);
      const auto due = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
        return (report_now_ && !answer_pending_) || done_;
      };
      mutex_.AwaitWithTimeout(absl::Condition(&due), heartbeat_interval_);
      if (answer_pending_ && !done_) continue;
      report = report_;
      report_now_ = false;
      last = done_;
    }
    auto answer = client_->GangHeartbeat(
        report, common::DeadlineIn(last ? kGoodbyeTimeout : options_.rpc_timeout));
    metrics_.CountHeartbeat(answer.ok());
    if (last) return;
    if (answer.ok()) {
      backoff.Reset();
      absl::MutexLock lock(&mutex_);
      answer_ = *std::move(answer);
      answer_pending_ = true;
    } else if (answer.status().code() == absl::StatusCode::kNotFound) {
      common::LogInfo("the coordinator does not know this agent: joining again");
      if (!Join()) return;
    } else {
      common::LogWarn("no heartbeat: ranks keep running", {{"error", answer.status()}});
      {
        absl::MutexLock lock(&mutex_);
        report_now_ = true;
      }
      if (!SleepFor(backoff.Next())) continue;
    }
  }
}

}  // namespace d2g::gang
