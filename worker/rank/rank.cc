#include "worker/rank/rank.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/DeviceGuard.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "coordinator/client/client.h"
#include "google/protobuf/util/json_util.h"
#include "model/folder/model_folder.h"
#include "model/text_to_image.h"
#include "model/torch_process.h"
#include "services/common/deadline.h"
#include "services/common/log.h"
#include "services/common/output_folder.h"
#include "services/common/path_policy.h"
#include "services/common/prompts.h"
#include "services/common/status_macros.h"
#include "services/spec/normal_spec.h"
#include "worker/collective/process_group.h"
#include "worker/collective/rendezvous.h"
#include "worker/common/torch_status.h"
#include "worker/distil/regression.h"
#include "worker/rank/checkpoint.h"
#include "worker/rank/cluster_data.h"
#include "worker/rank/rank_failure.h"
#include "worker/rank/training_loop.h"

namespace d2g::rank {
namespace {

using common::v1::TrainSpec;
using coordinator::v1::GangAssignment;
using coordinator::v1::TrainWork;

// A collective may wait for a peer that waits for data, so its limit is that of a long outage; a
// peer that dies is noticed at once, because its connection closes.
constexpr std::chrono::minutes kCollectiveTimeout{30};
// Ranks of a generation are started together; the slowest must have loaded its teacher by then.
constexpr std::chrono::minutes kMeetingTimeout{10};
// Rank 0 listens before the others are started, so that only the network is between them.
constexpr std::chrono::minutes kConnectTimeout{1};
constexpr int64_t kTextCacheBytes = int64_t{256} << 20;
// The coordinator may be away when a rank starts.
constexpr absl::Duration kStartTimeout = absl::Minutes(10);
// One attempt to commit, after which the wait is logged and goes on.
constexpr absl::Duration kCommitTimeout = absl::Seconds(5);

struct Gang {
  std::unique_ptr<collective::Rendezvous> rendezvous;
  std::unique_ptr<collective::ProcessGroup> group;
};

absl::Status Report(gang::RankStatusWriter* status, const char* phase, int64_t step) {
  gang::RankReport report;
  report.phase = phase;
  report.step = step;
  return status->Write(report);
}

// What a flag of this node's agent does not allow is not the job's fault.
template <typename F>
absl::Status OfThisNode(F&& f) {
  const absl::Status status = CatchPeersAndTorch([&f] {
    std::forward<F>(f)();
    return absl::OkStatus();
  });
  return absl::IsInvalidArgument(status) ? absl::FailedPreconditionError(status.message()) : status;
}

// First of all: the other ranks are started once rank 0's address is known, and one that cannot
// reach it says so before it loads anything.
absl::Status OpenRendezvous(const gang::RankLaunch& launch, int rank,
                            gang::RankStatusWriter* status, Gang* gang) {
  D2G_RETURN_IF_ERROR(OfThisNode([&] {
    gang->rendezvous =
        rank == 0
            ? collective::Rendezvous::Host(launch.advertise_host, kMeetingTimeout)
            : collective::Rendezvous::Connect(launch.assignment.rendezvous(), kConnectTimeout);
  }));
  if (rank != 0) return absl::OkStatus();
  gang::RankReport report;
  report.rendezvous = gang->rendezvous->address();
  return status->Write(report);
}

absl::Status MeetOthers(const gang::RankLaunch& launch, int rank, Gang* gang) {
  const GangAssignment& assignment = launch.assignment;
  collective::ProcessGroupOptions options;
  options.kind = launch.device == "cpu" ? collective::ProcessGroupKind::kGloo
                                        : collective::ProcessGroupKind::kNccl;
  options.rank = rank;
  options.size = assignment.world_size();
  options.generation = assignment.generation();
  options.host = launch.advertise_host;
  options.device_index = rank - assignment.first_rank();
  options.meeting_timeout = kMeetingTimeout;
  options.timeout = kCollectiveTimeout;
  return OfThisNode(
      [&] { gang->group = collective::MakeProcessGroup(*gang->rendezvous, options); });
}

// A folder with another's files is bad input, as it is so on every machine. So is one that cannot
// be made or written before the job's first checkpoint: waiting mends nothing. After that it has
// worked once, and is away for a while.
absl::Status JudgeOutput(const GangAssignment& assignment, const absl::Status& status) {
  if (absl::IsFailedPrecondition(status)) return absl::InvalidArgumentError(status.message());
  const bool never = absl::IsPermissionDenied(status) || absl::IsNotFound(status);
  if (never && !assignment.work().has_resume()) {
    return absl::InvalidArgumentError(absl::StrCat("output_dir: ", status.message()));
  }
  return status;
}

// Makes the output folder the job's. What another job left is set aside once: by rank 0, before it
// says where the others meet it, so before they are started.
absl::Status Claim(const GangAssignment& assignment, int rank) {
  const coordinator::v1::JobSpec& spec = assignment.work().spec();
  return JudgeOutput(assignment, common::ClaimOutput(spec.output_dir(), assignment.job(),
                                                     rank == 0 && spec.overwrite()));
}

absl::StatusOr<std::unique_ptr<AuditLog>> OpenAudit(const GangAssignment& assignment, int rank) {
  auto audit = AuditLog::Open(assignment.work().spec().output_dir(), assignment.generation(), rank);
  D2G_RETURN_IF_ERROR(JudgeOutput(assignment, audit.status()));
  return audit;
}

absl::StatusOr<common::PromptLines> FetchPrompts(coordinator::CoordinatorClient* coordinator,
                                                 const std::string& digest) {
  D2G_ASSIGN_OR_RETURN(const std::string text,
                       coordinator->FetchPromptList(digest, common::DeadlineIn(kStartTimeout)));
  return common::ParsePromptList(text);
}

// The coordinator made the spec normal; one of an older version may not know every field.
absl::StatusOr<TrainSpec> NormalTrainSpec(TrainSpec train) {
  const std::vector<common::FieldViolation> violations = spec::NormalizeTrainSpec(&train);
  if (!violations.empty()) return common::BadRequest(violations);
  return train;
}

absl::Status CheckTeacher(const TrainWork& work) {
  return model::FindModelFolder(work.spec().teacher().path(), work.recipe().teacher_digest())
      .status();
}

absl::StatusOr<std::optional<LoadedCheckpoint>> LoadResume(const TrainWork& work) {
  if (!work.has_resume()) return std::nullopt;
  const coordinator::v1::Checkpoint& resume = work.resume();
  D2G_ASSIGN_OR_RETURN(LoadedCheckpoint loaded,
                       ReadCheckpoint(resume.path(), resume.manifest_digest()));
  if (loaded.state.dataset != work.dataset()) {
    return absl::FailedPreconditionError(absl::StrCat("checkpoint ", resume.path(),
                                                      " was trained on ", loaded.state.dataset,
                                                      ", the job reads ", work.dataset()));
  }
  return loaded;
}

BatchReaderOptions ReaderOptions(const GangAssignment& assignment, const TrainSpec& train, int rank,
                                 const CheckpointState& state,
                                 const std::vector<std::string>& prompts) {
  BatchReaderOptions options;
  options.world_size = assignment.world_size();
  options.rank = rank;
  options.train = train;
  options.recipe = assignment.work().recipe();
  options.start = state.cursor;
  options.batches = std::max<int64_t>(0, train.steps() - state.step);
  options.prompt_class = [classes = PromptClasses(prompts)](int64_t prompt) {
    return classes[prompt];
  };
  return options;
}

// State at the start, or the checkpoint's, with what this generation writes into its own.
absl::StatusOr<CheckpointState> StartState(const GangAssignment& assignment, const TrainSpec& train,
                                           const distil::OneStepGenerator& student,
                                           const std::optional<LoadedCheckpoint>& resume) {
  const TrainWork& work = assignment.work();
  CheckpointState state = resume ? resume->state : CheckpointState();
  state.job = assignment.job();
  state.generation = assignment.generation();
  state.world_size = assignment.world_size();
  state.t0 = student.t0();
  state.parametrization = train.parametrization();
  state.prediction_type = model::ParametrizationName(student.output());
  state.dataset = work.dataset();
  state.teacher_digest = work.recipe().teacher_digest();
  state.spec_json.clear();
  const auto written = google::protobuf::util::MessageToJsonString(work.spec(), &state.spec_json);
  if (!written.ok()) {
    return absl::InternalError(absl::StrCat("the job's spec as JSON: ", written.ToString()));
  }
  return state;
}

// What earlier generations wrote and the coordinator does not know. It is asked once: what stays is
// for the next generation.
void RemoveOldCheckpoints(coordinator::CoordinatorClient* coordinator,
                          const GangAssignment& assignment, const std::string& checkpoints_dir) {
  RemoveUnfinishedCheckpoints(checkpoints_dir, assignment.generation());
  std::set<std::string> listed = {assignment.work().resume().path()};
  coordinator::v1::ListCheckpointsRequest request;
  request.set_parent(assignment.job());
  do {
    const auto page = coordinator->ListCheckpoints(request, common::DeadlineIn(kCommitTimeout));
    if (!page.ok()) {
      common::LogWarn("cannot list the checkpoints: old ones stay", {{"error", page.status()}});
      return;
    }
    for (const auto& checkpoint : page->checkpoints()) listed.insert(checkpoint.path());
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty());
  RemoveLostCheckpoints(checkpoints_dir, assignment.job(), assignment.generation(), listed);
}

class Rank {
 public:
  Rank(const gang::RankLaunch& launch, int rank, gang::RankStatusWriter* status,
       const std::atomic<bool>& stop)
      : launch_(launch),
        assignment_(launch.assignment),
        work_(launch.assignment.work()),
        rank_(rank),
        status_(status),
        stop_(stop) {}

  absl::StatusOr<TrainingEnd> Run();

 private:
  absl::StatusOr<TrainingEnd> Train(const std::vector<std::string>& prompts,
                                    std::optional<LoadedCheckpoint> resume,
                                    coordinator::CoordinatorClient* coordinator);

  const gang::RankLaunch& launch_;
  const GangAssignment& assignment_;
  const TrainWork& work_;
  const int rank_;
  gang::RankStatusWriter* const status_;
  const std::atomic<bool>& stop_;
  // Normal.
  TrainSpec train_;
  Gang gang_;
  std::unique_ptr<AuditLog> audit_;
};

absl::StatusOr<TrainingEnd> Rank::Run() {
  D2G_RETURN_IF_ERROR(common::CheckJobPaths(launch_.paths, work_.spec()));
  if (rank_ == 0) D2G_RETURN_IF_ERROR(Claim(assignment_, rank_));
  D2G_RETURN_IF_ERROR(OpenRendezvous(launch_, rank_, status_, &gang_));
  D2G_RETURN_IF_ERROR(Report(status_, gang::kPhaseLoad, work_.resume().step()));
  if (rank_ != 0) D2G_RETURN_IF_ERROR(Claim(assignment_, rank_));
  D2G_ASSIGN_OR_RETURN(audit_, OpenAudit(assignment_, rank_));
  model::SetUpTorchProcess(launch_.threads);
  D2G_ASSIGN_OR_RETURN(train_, NormalTrainSpec(work_.spec().train()));
  if (train_.deterministic()) {
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
    // Nothing here reads memory that nothing wrote.
    at::globalContext().setDeterministicFillUninitializedMemory(false);
  }
  D2G_RETURN_IF_ERROR(CheckTeacher(work_));
  coordinator::CoordinatorClient coordinator(launch_.coordinator);
  D2G_ASSIGN_OR_RETURN(const common::PromptLines prompts,
                       FetchPrompts(&coordinator, work_.recipe().prompts_digest()));
  if (static_cast<int64_t>(prompts.lines.size()) != work_.recipe().prompt_count()) {
    return absl::FailedPreconditionError(absl::StrCat("the prompt list has ", prompts.lines.size(),
                                                      " lines, the dataset's recipe ",
                                                      work_.recipe().prompt_count()));
  }
  D2G_ASSIGN_OR_RETURN(std::optional<LoadedCheckpoint> resume, LoadResume(work_));
  return Train(prompts.lines, std::move(resume), &coordinator);
}

absl::StatusOr<TrainingEnd> Rank::Train(const std::vector<std::string>& prompts,
                                        std::optional<LoadedCheckpoint> resume,
                                        coordinator::CoordinatorClient* coordinator) {
  const std::string& output_dir = work_.spec().output_dir();
  const std::string checkpoints_dir = common::CheckpointsFolder(output_dir);
  const at::Device device =
      launch_.device == "cpu"
          ? at::Device(at::kCPU)
          : at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(rank_ - assignment_.first_rank()));

  const c10::DeviceGuard on_device(device);
  // As PyTorch trains by default.
  at::globalContext().setAllowTF32CuDNN(true);

  // Reading starts first: it goes on while the networks load.
  ClusterData data(coordinator, assignment_.job(), work_.dataset(),
                   {work_.shards().begin(), work_.shards().end()});
  BatchReader reader(ReaderOptions(assignment_, train_, rank_,
                                   resume ? resume->state : CheckpointState(), prompts),
                     &data);

  const auto teacher = model::TextToImageModel::Load(
      work_.spec().teacher().path(), {.device = device, .load_vae = false, .pack = false});
  const distil::OneStepGenerator conversion(teacher.scheduler(), train_);
  const auto regression =
      distil::MakeRegressionTerms(train_.regression(), work_.recipe().latent_channels(), device);
  distil::TrainStep step(train_, teacher.unet(), conversion, regression, device);
  if (resume) step.LoadState(resume->tensors);
  TextCache texts([&teacher](const auto& texts) { return teacher.EncodePrompts(texts); }, prompts,
                  kTextCacheBytes);

  TrainingLoopOptions options;
  options.train = train_;
  options.recipe = work_.recipe();
  options.device = device;
  D2G_ASSIGN_OR_RETURN(options.state, StartState(assignment_, train_, conversion, resume));
  resume.reset();

  D2G_RETURN_IF_ERROR(MeetOthers(launch_, rank_, &gang_));
  std::optional<CheckpointWriter> checkpoints;
  if (rank_ == 0) {
    RemoveOldCheckpoints(coordinator, assignment_, checkpoints_dir);
    const auto commit = [coordinator](const auto& request) {
      return coordinator->CommitCheckpoint(request, common::DeadlineIn(kCommitTimeout));
    };
    // Ranks that lost the coordinator train on: the folder may be another job's by now.
    const auto write = [&output_dir, &assignment = assignment_](
                           const auto&... what) -> absl::StatusOr<WrittenCheckpoint> {
      D2G_RETURN_IF_ERROR(
          JudgeOutput(assignment, common::ClaimOutput(output_dir, assignment.job())));
      return WriteCheckpoint(what...);
    };
    checkpoints.emplace(assignment_.job(), checkpoints_dir, commit, write);
  }
  common::LogInfo("training", {{"job", assignment_.job()},
                               {"generation", assignment_.generation()},
                               {"rank", rank_},
                               {"world_size", assignment_.world_size()},
                               {"step", options.state.step}});
  TrainingLoop loop(std::move(options), {.group = gang_.group.get(),
                                         .reader = &reader,
                                         .texts = &texts,
                                         .step = &step,
                                         .checkpoints = checkpoints ? &*checkpoints : nullptr,
                                         .audit = audit_.get(),
                                         .status = status_,
                                         .stop = &stop_});
  return loop.Run();
}

}  // namespace

absl::StatusOr<TrainingEnd> RunRank(const gang::RankLaunch& launch, int rank,
                                    gang::RankStatusWriter* status, const std::atomic<bool>& stop) {
  const auto end = CatchPeersAndTorch([&] { return Rank(launch, rank, status, stop).Run(); });
  if (end.ok()) return end;
  const auto& spec = launch.assignment.work().spec();
  return JudgeMissingInput(end.status(),
                           {spec.teacher().path(), spec.train().regression().features_path()});
}

}  // namespace d2g::rank
