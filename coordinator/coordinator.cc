#include "coordinator/coordinator.h"

#include "services/common/status_macros.h"

namespace d2g::coordinator {

absl::StatusOr<std::unique_ptr<Coordinator>> Coordinator::Create(ClusterOptions options,
                                                                 const RowChanges& rows,
                                                                 RowSink* sink,
                                                                 const d2g::common::Clock* clock,
                                                                 ClusterMetrics* metrics) {
  D2G_ASSIGN_OR_RETURN(
      std::unique_ptr<ClusterState> state,
      ClusterState::Load(std::move(options), rows, Moment{clock->Now(), clock->SteadyNow()}));
  return std::unique_ptr<Coordinator>(new Coordinator(std::move(state), sink, clock, metrics));
}

std::vector<Note> Coordinator::Hand() {
  RowChanges changes = state_->tables().TakeChanges();
  if (!changes.empty()) sequence_ = sink_->Enqueue(std::move(changes));
  return state_->TakeNotes();
}

void Coordinator::Log(const std::vector<Note>& notes) {
  for (const Note& note : notes) {
    d2g::common::Log(note.level, note.message, {{"job", note.job}, {"detail", note.detail}});
  }
}

void Coordinator::Tick() {
  ClusterFigures figures;
  std::vector<Note> notes;
  {
    absl::MutexLock lock(&mutex_);
    const Moment now{clock_->Now(), clock_->SteadyNow()};
    state_->NoteTime(now.steady);
    state_->Tick(now);
    notes = Hand();
    figures = state_->Figures(now);
  }
  Log(notes);
  if (metrics_ != nullptr) metrics_->Show(figures);
}

}  // namespace d2g::coordinator
