#include "coordinator/decider/coordinator.h"

namespace d2g::coordinator {

std::unique_ptr<Coordinator> Coordinator::Create(ClusterOptions options, const RowChanges& rows,
                                                 RowSink* sink, const common::Clock* clock,
                                                 ClusterMetrics* metrics) {
  std::unique_ptr<Coordinator> coordinator(new Coordinator(
      ClusterState::Load(std::move(options), rows, Moment{clock->Now(), clock->SteadyNow()}), sink,
      clock, metrics));
  std::vector<Note> notes;
  {
    absl::MutexLock lock(&coordinator->mutex_);
    notes = coordinator->Hand();
  }
  Log(notes);
  return coordinator;
}

std::vector<Note> Coordinator::Hand() {
  RowChanges changes = state_->TakeChanges();
  if (!changes.empty()) sequence_ = sink_->Enqueue(std::move(changes));
  return state_->TakeNotes();
}

void Coordinator::Log(const std::vector<Note>& notes) {
  for (const Note& note : notes) {
    common::Log(note.level, note.message, {{"job", note.job}, {"detail", note.detail}});
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
