#include "cli/report.h"

#include <algorithm>
#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "cli/format.h"
#include "cli/progress.h"
#include "cli/table.h"
#include "google/protobuf/util/time_util.h"
#include "services/common/output_folder.h"
#include "services/common/utf8.h"

namespace d2g::cli {
namespace {

using coordinator::v1::Checkpoint;
using coordinator::v1::EvaluationReport;
using coordinator::v1::Job;
using coordinator::v1::StageProgress;
using coordinator::v1::TaskInfo;
using google::protobuf::Timestamp;
using google::protobuf::util::TimeUtil;

absl::Time ToTime(const Timestamp& timestamp) {
  return absl::FromUnixMicros(TimeUtil::TimestampToMicroseconds(timestamp));
}

std::string LocalTime(const Timestamp& timestamp) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%S", ToTime(timestamp), absl::LocalTimeZone());
}

// "frechet_distance" -> "frechet distance"
std::string Words(const std::string& name) { return absl::StrReplaceAll(name, {{"_", " "}}); }

// "teacher_8" -> "teacher, 8 steps"
std::string ModelWords(const std::string& model) {
  const size_t cut = model.rfind('_');
  if (cut == std::string::npos) return model;
  const std::string steps = model.substr(cut + 1);
  if (steps.empty() ||
      !std::all_of(steps.begin(), steps.end(), [](char c) { return absl::ascii_isdigit(c); })) {
    return Words(model);
  }
  return absl::StrCat(Words(model.substr(0, cut)), ", ", steps, steps == "1" ? " step" : " steps");
}

bool IsTime(const std::string& measure) { return absl::StrContains(measure, "seconds"); }

// Seconds read as milliseconds: a picture takes few of them.
std::string MeasureText(const EvaluationReport::Measure& measure) {
  const double unit = IsTime(measure.name()) ? 1000 : 1;
  std::string text = NumberText(measure.value() * unit);
  if (measure.low() != measure.high()) {
    absl::StrAppend(&text, " [", NumberText(measure.low() * unit), ", ",
                    NumberText(measure.high() * unit), "]");
  }
  return text;
}

std::string MeasureHeading(const std::string& name) {
  if (name == "seconds_per_picture") return "ms per picture";
  if (IsTime(name))
    return absl::StrCat(Words(absl::StrReplaceAll(name, {{"_seconds", ""}})), " ms");
  return Words(name);
}

// One table over the measures that `wanted` chooses.
std::string MeasuresTable(const EvaluationReport& report, bool times) {
  std::vector<std::string> names;
  for (const auto& row : report.rows()) {
    for (const auto& measure : row.measures()) {
      if (IsTime(measure.name()) == times &&
          std::find(names.begin(), names.end(), measure.name()) == names.end()) {
        names.push_back(measure.name());
      }
    }
  }
  if (names.empty()) return "";
  std::vector<std::string> headings = {"model"};
  for (const std::string& name : names) headings.push_back(MeasureHeading(name));
  Table table(headings);
  for (const auto& row : report.rows()) {
    std::vector<std::string> cells = {ModelWords(row.model())};
    for (const std::string& name : names) {
      const auto measure = std::find_if(row.measures().begin(), row.measures().end(),
                                        [&](const auto& m) { return m.name() == name; });
      cells.push_back(measure == row.measures().end() ? "-" : MeasureText(*measure));
    }
    table.Add(cells);
  }
  if (!times && !report.gap_closed().empty()) {
    std::vector<std::string> cells = {"gap closed"};
    for (const std::string& name : names) {
      const auto share = report.gap_closed().find(name);
      cells.push_back(share == report.gap_closed().end()
                          ? ""
                          : absl::StrFormat("%.0f %%", 100 * share->second));
    }
    table.Add(cells);
  }
  return table.ToString("  ");
}

// Sorted, because a protobuf map has no order.
template <typename Map>
std::string Figures(const Map& map) {
  std::vector<std::string> parts;
  for (const auto& [name, value] : std::map<std::string, double>(map.begin(), map.end())) {
    parts.push_back(absl::StrCat(name, " ", NumberText(value)));
  }
  return absl::StrJoin(parts, "  ");
}

// The first stage that has not ended.
const StageProgress* CurrentStage(const Job& job) {
  for (const StageProgress& stage : job.stages()) {
    if (!stage.has_end_time()) return &stage;
  }
  return nullptr;
}

}  // namespace

std::string JobsTable(const std::vector<Job>& jobs, absl::Time now) {
  Table table({"JOB", "LABEL", "STATE", "STAGE", "PROGRESS", "AGE"}, {0, 1, 2, 3, 4});
  for (const Job& job : jobs) {
    const StageProgress* stage = CurrentStage(job);
    const bool show = stage != nullptr && !IsFinal(job.state());
    table.Add({job.name(), job.spec().display_name(), StateName(job.state()),
               show ? StageName(stage->stage()) : "-",
               show ? absl::StrCat(CountText(stage->done()), " / ", CountText(stage->total()), " ",
                                   stage->unit())
                    : "-",
               DurationText(now - ToTime(job.create_time()))});
  }
  return table.ToString();
}

std::string EvaluationTable(const EvaluationReport& report) {
  std::string out =
      absl::StrCat("evaluation of the checkpoint at step ", CountText(report.checkpoint_step()));
  if (!report.rows().empty()) {
    absl::StrAppend(&out, " on ", CountText(report.rows(0).pictures()),
                    " held-out pictures (in brackets: 95 % intervals)");
  }
  absl::StrAppend(&out, "\n", MeasuresTable(report, /*times=*/false));
  if (const std::string times = MeasuresTable(report, /*times=*/true); !times.empty()) {
    absl::StrAppend(&out, "\n", times);
  }
  if (!report.discriminator().empty()) {
    absl::StrAppend(&out, "\n  discriminator on held-out triples: ",
                    common::WithoutControls(Figures(report.discriminator())), "\n");
  }
  if (!report.grid_path().empty()) {
    absl::StrAppend(
        &out, "\n  pictures side by side: ", common::WithoutControls(report.grid_path()), "\n");
  }
  return out;
}

std::string StageTimesTable(const Job& job) {
  Table table({"stage", "started", "ended", "took", "done"}, {0, 1, 2});
  for (const StageProgress& stage : job.stages()) {
    const bool started = stage.has_start_time();
    const bool ended = stage.has_end_time();
    table.Add({StageName(stage.stage()), started ? LocalTime(stage.start_time()) : "-",
               ended ? LocalTime(stage.end_time()) : "-",
               started && ended
                   ? DurationText(ToTime(stage.end_time()) - ToTime(stage.start_time()))
                   : "-",
               absl::StrCat(CountText(stage.done()), " / ", CountText(stage.total()), " ",
                            stage.unit())});
  }
  return table.ToString("  ");
}

std::string JobDescription(const Job& job, const std::vector<Checkpoint>& checkpoints,
                           const std::vector<TaskInfo>& tasks, absl::Time now) {
  std::string out = absl::StrJoin(ProgressLines(job, 1000), "\n") + "\n\n";
  const auto line = [&out](const std::string& name, const std::string& value) {
    if (value.empty()) return;
    absl::StrAppend(&out, absl::StrFormat("%-12s %s\n", name, common::WithoutControls(value)));
  };
  line("submitted", absl::StrCat(LocalTime(job.create_time()), " (",
                                 DurationText(now - ToTime(job.create_time())), " ago)"));
  line("teacher", job.spec().teacher().path());
  line("dataset", job.dataset());
  const std::string& replaced_by = job.output_replaced_by();
  line("output",
       replaced_by.empty()
           ? job.spec().output_dir()
           : absl::StrCat(job.spec().output_dir(), " (replaced by ", replaced_by,
                          "; what it held is in ",
                          common::ReplacedFolder(job.spec().output_dir(), job.name()), ")"));
  if (job.generation() > 0) line("generation", CountText(job.generation()));
  line("training", Figures(job.training_metrics()));
  if (replaced_by.empty()) line("export", job.export_().path());
  absl::StrAppend(&out, "\nstages\n", StageTimesTable(job));
  if (!checkpoints.empty()) {
    Table table({"checkpoint", "generation", "committed", "folder"}, {2, 3});
    for (const Checkpoint& checkpoint : checkpoints) {
      table.Add({absl::StrCat("step ", CountText(checkpoint.step())),
                 CountText(checkpoint.generation()), LocalTime(checkpoint.commit_time()),
                 checkpoint.path()});
    }
    absl::StrAppend(&out, "\ncheckpoints\n", table.ToString("  "));
  }
  if (!tasks.empty()) {
    Table table({"task", "work", "worker", "phase", "failures", "last error"}, {1, 2, 3, 5});
    for (const TaskInfo& task : tasks) {
      table.Add({task.name(), task.description(), task.worker(), task.phase(),
                 CountText(task.failures()), task.last_error()});
    }
    absl::StrAppend(&out, "\ntasks that are leased or have failed\n", table.ToString("  "));
  }
  if (job.has_evaluation()) absl::StrAppend(&out, "\n", EvaluationTable(job.evaluation()));
  return out;
}

}  // namespace d2g::cli
