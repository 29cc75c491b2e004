#include "coordinator/state/gang_table.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/rows/limits.h"
#include "services/common/utf8.h"

namespace d2g::coordinator {

using common::ValidUtf8;
using rows::v1::GangRow;
using v1::GangHeartbeatRequest;
using v1::GangHeartbeatResponse;
using v1::JoinGangRequest;

namespace {

constexpr absl::Duration kFirstBackoff = absl::Milliseconds(500);
// Phase of a rank that has reported nothing yet (RankStatus.phase).
constexpr char kPhaseStart[] = "start";

absl::Status CheckId(absl::string_view field, absl::string_view value) {
  if (!value.empty() && value.size() <= kMaxIdBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, ": has ", value.size(), " bytes; must have 1 to ", kMaxIdBytes));
}

const GangRow::Member* FindMember(const GangRow& gang, absl::string_view agent) {
  for (const GangRow::Member& member : gang.members()) {
    if (member.agent() == agent) return &member;
  }
  return nullptr;
}

int32_t WorldSize(const GangRow& gang) {
  int32_t size = 0;
  for (const GangRow::Member& member : gang.members()) size += member.rank_count();
  return size;
}

const std::string& RankZerosAgent(const GangRow& gang) {
  for (const GangRow::Member& member : gang.members()) {
    if (member.first_rank() == 0) return member.agent();
  }
  return gang.members(0).agent();
}

// Whether another rank's own failure would say more.
bool IsConsequence(int failure) {
  return failure == GangHeartbeatRequest::FAILURE_PEER_LOST ||
         failure == GangHeartbeatRequest::FAILURE_RANK0_UNREACHABLE;
}

}  // namespace

GangTable::GangTable(GangOptions options, Table<GangRow> rows, absl::Duration now)
    : options_(options), rows_(std::move(rows)), pool_changed_(now) {
  for (const auto& [job, gang] : rows_.rows()) {
    if (!gang.active()) continue;
    Live& live = live_[job];
    live.formed = live.rendezvous_known = now;
    for (const GangRow::Member& member : gang.members()) {
      Agent& agent = agents_[member.agent()];
      agent.node = member.node();
      agent.slots = member.slots();
      agent.order = next_order_++;
      agent.last_seen = now;
      agent.assigned_job = job;
    }
  }
}

absl::Status GangTable::Join(const JoinGangRequest& request, absl::Duration now) {
  if (absl::Status status = CheckId("agent", request.agent()); !status.ok()) return status;
  if (absl::Status status = CheckId("node", request.node()); !status.ok()) return status;
  if (request.slots() < 1 || request.slots() > kMaxAgentSlots) {
    return absl::InvalidArgumentError(
        absl::StrCat("slots: ", request.slots(), " is not from 1 to ", kMaxAgentSlots));
  }
  const auto [it, fresh] = agents_.try_emplace(request.agent());
  Agent& agent = it->second;
  agent.node = request.node();
  agent.slots = request.slots();
  agent.last_seen = now;
  if (fresh) {
    agent.order = next_order_++;
    pool_changed_ = now;
  }
  return absl::OkStatus();
}

absl::StatusOr<GangEvents> GangTable::Report(const Request& request, absl::Duration now) {
  const auto it = agents_.find(request.agent());
  if (it == agents_.end()) {
    return absl::NotFoundError(
        absl::StrCat("agent \"", ValidUtf8(request.agent(), kMaxIdBytes), "\" is not known: join"));
  }
  Agent& agent = it->second;
  agent.last_seen = now;
  if (request.state() == Request::AGENT_STATE_DRAINING && !agent.draining) {
    agent.draining = true;
    pool_changed_ = now;
  }
  GangEvents events;
  const std::string who = absl::StrCat("agent ", request.agent(), " on node ", agent.node);
  const Cause broken = {
      absl::StrCat(request.error().empty() ? "a rank died"
                                           : ValidUtf8(request.error(), common::kMaxFailureBytes),
                   " (", who, ")"),
      Request::Failure_IsValid(request.failure()) ? request.failure()
                                                  : Request::FAILURE_UNSPECIFIED,
      request.failed_step()};
  if (agent.assigned_job.empty()) {
    if (request.state() == Request::AGENT_STATE_BROKEN) Explain(request, broken, &events);
    return events;
  }
  const std::string job = agent.assigned_job;
  const GangRow& gang = *rows_.Find(job);
  const bool current = request.job() == JobName(job) && request.generation() == gang.generation();
  const auto note_ranks = [&] {
    agent.started = true;
    Live& live = live_[job];
    const GangRow::Member& member = *FindMember(gang, request.agent());
    if (!request.rendezvous().empty() && member.first_rank() == 0) {
      if (live.rendezvous.empty()) live.rendezvous_known = now;
      live.rendezvous = request.rendezvous();
    }
    for (const auto& rank : request.ranks()) live.ranks[rank.rank()] = rank;
    NoteStart(gang, &live);
  };

  switch (request.state()) {
    case Request::AGENT_STATE_RUNNING:
      if (current) note_ranks();
      break;
    case Request::AGENT_STATE_LEFT:
      if (current) {
        MemberGone(request.agent(), {absl::StrCat(who, ": ranks left before the last step")}, now,
                   &events);
      }
      break;
    case Request::AGENT_STATE_BROKEN:
      if (current) {
        if (broken.failure == Request::FAILURE_NOT_STARTED) LeaveOut(agent, now);
        if (broken.failure == Request::FAILURE_RANK0_UNREACHABLE) {
          const auto host = agents_.find(RankZerosAgent(gang));
          if (host != agents_.end()) LeaveOut(host->second, now);
        }
        MemberGone(request.agent(), broken, now, &events);
      }
      break;
    case Request::AGENT_STATE_DRAINING:
      if (current && request.ranks_size() > 0) {
        note_ranks();
        Leave(job);
      } else {
        // Not started yet, or its ranks are gone. A gang in which others run must leave first.
        Leave(job);
        MemberGone(request.agent(), {}, now, &events);
      }
      break;
    default:
      if (agent.started || gang.leaving()) {
        MemberGone(request.agent(), {absl::StrCat(who, " stopped its ranks without saying why")},
                   now, &events);
      }
      break;
  }
  return events;
}

GangTable::Answer GangTable::AnswerFor(absl::string_view agent_id) const {
  Answer answer;
  const auto it = agents_.find(agent_id);
  if (it == agents_.end() || it->second.assigned_job.empty() || it->second.left) return answer;
  const std::string& job = it->second.assigned_job;
  const GangRow& gang = *rows_.Find(job);
  if (gang.leaving()) {
    answer.action = GangHeartbeatResponse::ACTION_CHECKPOINT_AND_LEAVE;
    return answer;
  }
  const GangRow::Member& member = *FindMember(gang, agent_id);
  answer.action = GangHeartbeatResponse::ACTION_RUN;
  answer.job = job;
  answer.generation = gang.generation();
  answer.resume_step = gang.resume_step();
  answer.world_size = WorldSize(gang);
  answer.first_rank = member.first_rank();
  answer.rank_count = member.rank_count();
  if (const auto live = live_.find(job); live != live_.end()) {
    answer.rendezvous = live->second.rendezvous;
  }
  return answer;
}

GangEvents GangTable::Tick(const std::vector<TrainDemand>& demands, absl::Duration now) {
  GangEvents events;
  std::vector<std::string> lost;
  for (const auto& [id, agent] : agents_) {
    if (now - agent.last_seen > options_.agent_timeout) lost.push_back(id);
  }
  for (const std::string& id : lost) {
    if (!agents_[id].assigned_job.empty() && !agents_[id].left) {
      MemberGone(id,
                 {absl::StrCat("agent ", id, " on node ", agents_[id].node, " was silent for ",
                               absl::FormatDuration(options_.agent_timeout))},
                 now, &events);
    }
    // A leaving generation may still name it as a member: it counts as left there.
    agents_.erase(id);
    pool_changed_ = now;
  }
  std::vector<std::string> overdue;
  for (const auto& [job, live] : live_) {
    if (live.finished && now >= live.finish_deadline) overdue.push_back(job);
  }
  for (const std::string& job : overdue) Kill(job, now);
  BreakOverdueStarts(now, &events);
  for (const TrainDemand& demand : demands) {
    if (!Active(demand.job)) TryForm(demand, now, &events);
  }
  return events;
}

bool GangTable::TryForm(const TrainDemand& demand, absl::Duration now, GangEvents* events) {
  if (const auto wait = not_before_.find(demand.job);
      wait != not_before_.end() && now < wait->second) {
    return false;
  }
  const std::vector<std::string> candidates = Candidates(demand, now);
  int32_t slots = 0;
  for (const std::string& id : candidates) slots += agents_[id].slots;
  if (slots < demand.min_ranks) return false;
  const GangRow* previous = rows_.Find(demand.job);
  const bool as_large_as_before =
      previous != nullptr && WorldSize(*previous) > 0 && slots >= WorldSize(*previous);
  if (slots < demand.max_ranks && !as_large_as_before && now - pool_changed_ < options_.settle) {
    return false;
  }
  GangRow& gang = rows_.Mutable(demand.job);
  gang.set_generation(gang.generation() + 1);
  gang.set_active(true);
  gang.set_leaving(false);
  gang.set_resume_step(demand.resume_step);
  gang.clear_members();
  int32_t next_rank = 0;
  for (const std::string& id : candidates) {
    if (next_rank == demand.max_ranks) break;
    Agent& agent = agents_[id];
    GangRow::Member& member = *gang.add_members();
    member.set_agent(id);
    member.set_node(agent.node);
    member.set_slots(agent.slots);
    member.set_first_rank(next_rank);
    member.set_rank_count(std::min(agent.slots, demand.max_ranks - next_rank));
    next_rank += member.rank_count();
    agent.assigned_job = demand.job;
    agent.started = false;
    agent.left = false;
  }
  Live& live = live_[demand.job] = Live();
  live.formed = now;
  events->push_back({GangEvent::Kind::kFormed, demand.job, gang.generation(), ""});
  return true;
}

void GangTable::Leave(absl::string_view job) {
  if (Active(job) && !Find(job)->leaving()) rows_.Mutable(job).set_leaving(true);
}

void GangTable::Kill(absl::string_view job, absl::Duration now) {
  if (Active(job)) End(job, now);
}

void GangTable::Finish(absl::string_view job, absl::Duration now) {
  if (!Active(job)) return;
  Live& live = live_[std::string(job)];
  if (live.finished) return;
  live.finished = true;
  live.finish_deadline = now + options_.finish_grace;
}

void GangTable::NoteCheckpoint(absl::string_view job) {
  not_before_.erase(std::string(job));
  if (const GangRow* gang = Find(job); gang != nullptr && gang->failures() > 0) {
    rows_.Mutable(job).set_failures(0);
  }
}

void GangTable::EraseJob(absl::string_view job) {
  live_.erase(std::string(job));
  not_before_.erase(std::string(job));
  rows_.Erase(job);
}

void GangTable::Grace(absl::Duration now) {
  for (auto& [id, agent] : agents_) agent.last_seen = now;
  for (auto& [job, live] : live_) live.formed = live.rendezvous_known = now;
}

bool GangTable::Active(absl::string_view job) const {
  const GangRow* gang = Find(job);
  return gang != nullptr && gang->active();
}

const GangTable::Ranks& GangTable::RanksOf(absl::string_view job) const {
  static const Ranks* const none = new Ranks();
  const auto it = live_.find(job);
  return it == live_.end() ? *none : it->second.ranks;
}

int32_t GangTable::FreeSlots() const {
  int32_t slots = 0;
  for (const auto& [id, agent] : agents_) {
    if (agent.assigned_job.empty() && !agent.draining) slots += agent.slots;
  }
  return slots;
}

int32_t GangTable::AllSlots() const {
  int32_t slots = 0;
  for (const auto& [id, agent] : agents_) {
    if (!agent.draining) slots += agent.slots;
  }
  return slots;
}

bool GangTable::RanksStarted(const Live& live, const GangRow::Member& member) const {
  for (int32_t k = 0; k < member.rank_count(); ++k) {
    const auto rank = live.ranks.find(member.first_rank() + k);
    if (rank == live.ranks.end() || rank->second.phase() == kPhaseStart) return false;
  }
  return true;
}

void GangTable::NoteStart(const GangRow& gang, Live* live) {
  if (live->all_started) return;
  for (const GangRow::Member& member : gang.members()) {
    if (!RanksStarted(*live, member)) return;
  }
  live->all_started = true;
  for (const GangRow::Member& member : gang.members()) {
    if (const auto agent = agents_.find(member.agent()); agent != agents_.end()) {
      agent->second.failed_starts = 0;
    }
  }
}

std::optional<GangTable::Awaited> GangTable::FirstAwaited(absl::string_view job,
                                                          absl::Duration now) const {
  const auto found = live_.find(job);
  if (!Active(job) || found == live_.end()) return std::nullopt;
  const Live& live = found->second;
  const GangRow& gang = *Find(job);
  if (gang.leaving() || live.finished) return std::nullopt;
  for (const GangRow::Member& member : gang.members()) {
    if (RanksStarted(live, member)) continue;
    // Rank 0's agent starts the rest of its ranks once that one listens, as the others do.
    const bool before = live.rendezvous.empty();
    if (before && member.first_rank() != 0) continue;
    return Awaited{member.agent(), member.node(),
                   now - (before ? live.formed : live.rendezvous_known)};
  }
  return std::nullopt;
}

void GangTable::BreakOverdueStarts(absl::Duration now, GangEvents* events) {
  std::vector<std::pair<std::string, Awaited>> overdue;
  for (const auto& [job, live] : live_) {
    const auto awaited = FirstAwaited(job, now);
    if (awaited && awaited->waiting >= options_.start_timeout) overdue.emplace_back(job, *awaited);
  }
  for (const auto& [job, awaited] : overdue) {
    if (const auto agent = agents_.find(awaited.agent); agent != agents_.end()) {
      LeaveOut(agent->second, now);
    }
    Break(job,
          {absl::StrCat("agent ", awaited.agent, " on node ", awaited.node,
                        " did not start its ranks within ",
                        absl::FormatDuration(options_.start_timeout)),
           Request::FAILURE_NOT_STARTED},
          now, events);
  }
}

void GangTable::LeaveOut(Agent& agent, absl::Duration now) {
  const int doublings = std::min(agent.failed_starts++, 10);
  agent.left_out_until = now + std::min(kMaxLeftOut, kFirstLeftOut * (1 << doublings));
}

std::vector<std::string> GangTable::Candidates(const TrainDemand& demand,
                                               absl::Duration now) const {
  std::vector<std::pair<int64_t, std::string>> free;  // by order of joining
  int32_t trusted_slots = 0;
  for (const auto& [id, agent] : agents_) {
    if (!agent.assigned_job.empty() || agent.draining) continue;
    free.emplace_back(agent.order, id);
    if (now >= agent.left_out_until) trusted_slots += agent.slots;
  }
  std::sort(free.begin(), free.end());
  std::vector<std::string> candidates;
  for (const auto& [order, id] : free) {
    if (trusted_slots >= demand.min_ranks && now < agents_.find(id)->second.left_out_until) {
      continue;
    }
    candidates.push_back(id);
  }
  return candidates;
}

GangEvent GangTable::NoteCause(absl::string_view job, const Cause& cause) {
  GangRow& gang = rows_.Mutable(job);
  gang.set_last_error(cause.error);
  gang.set_last_failure(cause.failure);
  GangEvent event{GangEvent::Kind::kBroken, std::string(job), gang.generation(), cause.error};
  event.hopeless = cause.failure == Request::FAILURE_BAD_INPUT;
  if (cause.failure == Request::FAILURE_NOT_FINITE && cause.step > 0) {
    // From the same checkpoint the same batches come again.
    if (gang.not_finite_step() == cause.step) {
      event.hopeless = true;
      event.error = absl::StrCat("training diverged twice at step ", cause.step, ": ", cause.error);
    }
    gang.set_not_finite_step(cause.step);
  }
  return event;
}

void GangTable::Break(absl::string_view job, const Cause& cause, absl::Duration now,
                      GangEvents* events) {
  events->push_back(NoteCause(job, cause));
  GangRow& gang = rows_.Mutable(job);
  gang.set_failures(gang.failures() + 1);
  const int doublings = std::min(gang.failures() - 1, 10);
  not_before_[std::string(job)] = now + std::min(kMaxGangBackoff, kFirstBackoff * (1 << doublings));
  End(job, now);
}

void GangTable::Explain(const Request& request, const Cause& cause, GangEvents* events) {
  const absl::StatusOr<std::string> job = ParseJobName(request.job());
  const GangRow* gang = job.ok() ? Find(*job) : nullptr;
  if (gang == nullptr || gang->active() || gang->failures() == 0 ||
      request.generation() != gang->generation() || FindMember(*gang, request.agent()) == nullptr ||
      !IsConsequence(gang->last_failure()) || IsConsequence(cause.failure)) {
    return;
  }
  GangEvent event = NoteCause(*job, cause);
  event.kind = GangEvent::Kind::kExplained;
  events->push_back(std::move(event));
}

void GangTable::End(absl::string_view job, absl::Duration now) {
  GangRow& gang = rows_.Mutable(job);
  gang.set_active(false);
  gang.set_leaving(false);
  for (auto& [id, agent] : agents_) {
    if (agent.assigned_job != job) continue;
    agent.assigned_job.clear();
    agent.started = false;
    agent.left = false;
  }
  live_.erase(std::string(job));
  pool_changed_ = now;
}

void GangTable::MemberGone(const std::string& agent_id, const Cause& cause, absl::Duration now,
                           GangEvents* events) {
  Agent& agent = agents_[agent_id];
  const std::string job = agent.assigned_job;
  const GangRow& gang = *rows_.Find(job);
  if (!gang.leaving() && !live_[job].finished) {
    Break(job, cause, now, events);
    return;
  }
  agent.left = true;
  for (const GangRow::Member& member : gang.members()) {
    const auto it = agents_.find(member.agent());
    if (it != agents_.end() && it->second.assigned_job == job && !it->second.left) return;
  }
  const int64_t generation = gang.generation();
  End(job, now);
  events->push_back({GangEvent::Kind::kLeft, job, generation, ""});
}

}  // namespace d2g::coordinator
