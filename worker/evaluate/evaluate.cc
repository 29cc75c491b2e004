#include "worker/evaluate/evaluate.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "model/folder/model_folder.h"
#include "model/png.h"
#include "services/common/checkpoint_files.h"
#include "services/common/deadline.h"
#include "services/common/file_io.h"
#include "services/common/file_manifest.h"
#include "services/common/output_folder.h"
#include "services/common/prompts.h"
#include "services/common/status_macros.h"
#include "services/store/client/triple_client.h"
#include "worker/common/solver_options.h"
#include "worker/common/torch_status.h"
#include "worker/distil/student.h"
#include "worker/evaluate/measures.h"
#include "worker/evaluate/pictures.h"
#include "worker/lease/shard_patience.h"

namespace d2g::evaluate {
namespace {

using coordinator::v1::EvaluateWork;
using coordinator::v1::EvaluationReport;

// How long prompts and triples are waited for while their server is away, in pieces after which
// cancellation is looked at.
constexpr absl::Duration kPatience = absl::Minutes(5);
constexpr absl::Duration kPiece = absl::Seconds(3);

// What is written to the evaluation folder.
constexpr char kGridFile[] = "grid.png";
constexpr char kReportFile[] = "report.json";

std::string DiscriminatorFile() { return common::TensorFile(common::kDiscriminatorTensors); }

// Thrown through LibTorch code to leave it when the task is cancelled.
struct Stopped {};

// The measures in which a student can close the gap to the teacher.
constexpr const char* kQualityMeasures[] = {"frechet_distance", "class_agreement",
                                            "paired_distance", "diversity"};

void AddRow(const std::string& model, const HeldOut& held_out,
            const std::vector<NamedInterval>& quality, const std::vector<NamedInterval>& times,
            EvaluationReport* report) {
  EvaluationReport::Row* row = report->add_rows();
  row->set_model(model);
  row->set_pictures(static_cast<int32_t>(held_out.size()));
  for (const auto* measures : {&quality, &times}) {
    for (const NamedInterval& measured : *measures) {
      EvaluationReport::Measure* measure = row->add_measures();
      measure->set_name(measured.name);
      measure->set_value(measured.interval.value);
      measure->set_low(measured.interval.low);
      measure->set_high(measured.interval.high);
    }
  }
}

// Nothing where the measure was left out.
std::optional<double> Value(const std::vector<NamedInterval>& measures, const std::string& name) {
  for (const NamedInterval& measured : measures) {
    if (measured.name == name) return measured.interval.value;
  }
  return std::nullopt;
}

// The numeric part; throws what LibTorch and the model library throw, and Stopped.
EvaluationReport Measure(const EvaluateWork& work, HeldOut held_out, bool has_discriminator,
                         const std::string& device, const std::string& folder,
                         lease::TaskContext* context) {
  const auto& spec = work.spec().evaluate();
  const auto& solver = work.recipe().solver();
  // Solutions of one step are their own baseline: the teacher has one row then, and no gap.
  const bool has_baseline = solver.steps() > 1;
  const int64_t total = (has_baseline ? 3 : 2) * held_out.size();
  int64_t done = 0;
  const Tick tick = [&](int64_t pictures) {
    context->AddProgress();
    done += pictures;
    if (pictures > 0) context->SetDone(done, total);
    if (context->cancelled()) throw Stopped();
  };

  const at::Device torch_device(device);
  const model::TextToImageModel teacher = model::TextToImageModel::Load(
      work.spec().teacher().path(), {.device = torch_device,
                                     .solver = model::ParseSolverKind(solver.kind()),
                                     .progress = [&tick] { tick(0); }});
  Evaluator evaluator = Evaluator::Load(spec.evaluator_path());
  evaluator.network = evaluator.network.To(torch_device);
  const distil::StudentCheckpoint checkpoint =
      distil::StudentCheckpoint::Load(work.checkpoint_path());
  const distil::OneStepGenerator conversion = checkpoint.Conversion(teacher.scheduler());
  model::UNet2DConditionModel student = checkpoint.UNet(teacher.unet());
  // As the exported student runs, and as the teacher beside it does.
  student.PrepareForInference();
  tick(0);

  held_out.z = held_out.z.to(torch_device);
  held_out.x = held_out.x.to(torch_device);
  const at::Tensor text = EncodeAll(teacher, held_out.prompts);
  const model::SolverOptions full = SolverOptionsOf(solver);
  model::SolverOptions single = full;
  single.steps = 1;
  // With leading spacing the one step would run at t = 1, on pure noise: nobody's baseline.
  single.spacing = "trailing";

  context->SetPhase("pictures");
  const ModelPictures solutions = TeacherSolutions(teacher, held_out, tick);
  ModelPictures teacher_one;
  if (has_baseline) teacher_one = TeacherPictures(teacher, held_out, text, single, tick);
  const ModelPictures student_one =
      StudentPictures(teacher, student, conversion, held_out, text, tick);

  context->SetPhase("measure");
  const std::vector<int64_t> labels = LabelsOf(evaluator, held_out);
  auto quality = [&](const ModelPictures& made) {
    auto measures = MeasureQuality(evaluator, held_out, labels, made, work.recipe().seed());
    tick(0);
    return measures;
  };
  const auto solution_quality = quality(solutions), student_quality = quality(student_one);
  std::vector<NamedInterval> teacher_quality;
  if (has_baseline) teacher_quality = quality(teacher_one);

  EvaluationReport report;
  report.set_checkpoint_step(work.checkpoint_step());
  if (has_discriminator) {
    const distil::Discriminator discriminator(
        teacher.unet(), model::ReadSafetensors(work.checkpoint_path() + "/" + DiscriminatorFile()),
        torch_device);
    for (const auto& [name, value] :
         MeasureDiscriminator(discriminator, held_out, text, student_one.latents, tick)) {
      (*report.mutable_discriminator())[name] = value;
    }
  }

  context->SetPhase("time");
  AddRow(absl::StrCat("teacher_", solver.steps()), held_out, solution_quality,
         TimeTeacher(teacher, held_out, text, full, spec.timing_repeats(), tick), &report);
  if (has_baseline) {
    AddRow("teacher_1", held_out, teacher_quality,
           TimeTeacher(teacher, held_out, text, single, spec.timing_repeats(), tick), &report);
  }
  AddRow("student_1", held_out, student_quality,
         TimeStudent(teacher, student, conversion, held_out, text, spec.timing_repeats(), tick),
         &report);
  for (const char* name : kQualityMeasures) {
    const auto from = Value(teacher_quality, name), to = Value(solution_quality, name),
               reached = Value(student_quality, name);
    if (!from || !to || !reached) continue;
    (*report.mutable_gap_closed())[name] = evaluate::GapClosed(*from, *to, *reached);
  }
  report.set_grid_path(folder + "/" + kGridFile);
  std::vector<const ModelPictures*> rows = {&solutions, &student_one};
  if (has_baseline) rows.insert(rows.begin() + 1, &teacher_one);
  model::WritePng(report.grid_path(), SideBySide(rows, labels, spec.grid_columns()));
  return report;
}

// call(deadline) again and again while its server is away, the task runs and `patience` lasts.
template <typename Call>
auto CallWithPatience(const lease::TaskContext& context, absl::Duration patience, Call call)
    -> decltype(call(absl::Time())) {
  const absl::Time end = common::DeadlineIn(patience);
  while (true) {
    auto result = call(std::min(common::DeadlineIn(kPiece), end));
    const bool away =
        absl::IsUnavailable(result.status()) || absl::IsDeadlineExceeded(result.status());
    if (!away || common::TimeLeft(end) <= absl::ZeroDuration()) return result;
    D2G_RETURN_IF_ERROR(context.CheckCancelled());
  }
}

absl::StatusOr<std::string> ToJson(const EvaluationReport& report) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.preserve_proto_field_names = true;
  std::string text;
  const auto status = google::protobuf::util::MessageToJsonString(report, &text, options);
  if (!status.ok()) return absl::InternalError(std::string(status.message()));
  return text;
}

}  // namespace

absl::StatusOr<EvaluationReport> RunEvaluate(const EvaluateWork& work,
                                             const std::vector<std::string>& prompts,
                                             const ReadTriples& read, const std::string& device,
                                             lease::TaskContext* context) {
  const common::Tick tick = [&] {
    context->AddProgress();
    return !context->cancelled();
  };
  context->SetPhase("load");
  D2G_RETURN_IF_ERROR(
      model::FindModelFolder(work.spec().teacher().path(), work.recipe().teacher_digest(), tick)
          .status());
  D2G_ASSIGN_OR_RETURN(const common::FileManifest manifest,
                       common::ReadManifest(work.checkpoint_path()));
  const bool has_discriminator =
      work.spec().train().gan().weight() > 0 && manifest.contains(DiscriminatorFile());
  for (const std::string& file : distil::StudentCheckpoint::Files()) {
    D2G_RETURN_IF_ERROR(common::CheckFile(work.checkpoint_path(), file, manifest, tick));
  }
  if (has_discriminator) {
    D2G_RETURN_IF_ERROR(
        common::CheckFile(work.checkpoint_path(), DiscriminatorFile(), manifest, tick));
  }
  D2G_RETURN_IF_ERROR(common::ClaimOutput(work.spec().output_dir(), work.job()));
  const std::string folder = common::EvaluationFolder(work.spec().output_dir());
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) return common::ErrnoStatus(error.value(), folder, "make folder");

  D2G_ASSIGN_OR_RETURN(HeldOut held_out, ReadHeldOut(work, prompts, read, [&] {
                         context->AddProgress();
                         return context->CheckCancelled();
                       }));
  absl::StatusOr<EvaluationReport> report = CatchTorch([&] {
    return Measure(work, std::move(held_out), has_discriminator, device, folder, context);
  });
  D2G_RETURN_IF_ERROR(context->CheckCancelled());
  D2G_RETURN_IF_ERROR(JudgeMissingInput(
      report.status(), {work.spec().teacher().path(), work.spec().evaluate().evaluator_path()}));
  D2G_ASSIGN_OR_RETURN(const std::string text, ToJson(*report));
  D2G_RETURN_IF_ERROR(common::WriteFileAtomically(folder + "/" + kReportFile, text));
  return report;
}

EvaluateRunner::EvaluateRunner(coordinator::CoordinatorClient* coordinator, std::string device,
                               common::PathPolicy paths)
    : coordinator_(coordinator), device_(std::move(device)), paths_(std::move(paths)) {}

coordinator::v1::TaskKind EvaluateRunner::kind() const {
  return coordinator::v1::TASK_KIND_EVALUATE;
}

absl::Status EvaluateRunner::Run(const coordinator::v1::Task& task, lease::TaskContext* context,
                                 coordinator::v1::CompleteTaskRequest* result) {
  const EvaluateWork& work = task.evaluate();
  D2G_RETURN_IF_ERROR(common::CheckJobPaths(paths_, work.spec()));
  D2G_ASSIGN_OR_RETURN(
      const std::string text,
      coordinator_->FetchPromptList(work.recipe().prompts_digest(), common::DeadlineIn(kPatience)));
  D2G_ASSIGN_OR_RETURN(const common::PromptLines prompts, common::ParsePromptList(text));
  std::map<int, std::unique_ptr<store::TripleClient>> shards;
  for (const common::v1::ShardAddress& shard : work.shards()) {
    shards[shard.shard()] = std::make_unique<store::TripleClient>(shard);
  }
  const absl::Duration patience = lease::ShardPatience(task, kPatience);
  const ReadTriples read =
      [&](int shard,
          const std::vector<int64_t>& indices) -> absl::StatusOr<std::vector<store::v1::Triple>> {
    const auto found = shards.find(shard);
    if (found == shards.end()) {
      return absl::UnavailableError("shard " + std::to_string(shard) + " of " + work.dataset() +
                                    " is not there");
    }
    auto triples = CallWithPatience(*context, patience, [&](absl::Time deadline) {
      return found->second->ReadTriples(work.dataset(), indices, deadline);
    });
    if (triples.ok()) return triples;
    return common::Annotate(triples.status(), "shard " + std::to_string(shard));
  };
  // An exception that left here would end the worker.
  D2G_ASSIGN_OR_RETURN(*result->mutable_evaluate(), CatchTorch([&] {
    return RunEvaluate(work, prompts.lines, read, device_, context);
  }));
  return absl::OkStatus();
}

}  // namespace d2g::evaluate
