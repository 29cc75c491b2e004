#include "cli/progress.h"

#include <algorithm>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "cli/format.h"
#include "google/protobuf/util/time_util.h"
#include "services/common/utf8.h"

namespace d2g::cli {
namespace {

using coordinator::v1::Job;
using coordinator::v1::Stage;
using coordinator::v1::StageProgress;
using google::protobuf::util::TimeUtil;

constexpr int kNameWidth = 9;
constexpr int kBarWidth = 24;

absl::Duration Taken(const StageProgress& stage) {
  return absl::Microseconds(TimeUtil::TimestampToMicroseconds(stage.end_time()) -
                            TimeUtil::TimestampToMicroseconds(stage.start_time()));
}

// "1,024 / 2,048 triples"
std::string Counts(const StageProgress& stage) {
  std::string text = CountText(stage.done());
  if (stage.total() > 0) absl::StrAppend(&text, " / ", CountText(stage.total()));
  if (!stage.unit().empty()) absl::StrAppend(&text, " ", stage.unit());
  return text;
}

// What follows the counts: rate and time left, or the time that the stage took.
std::vector<std::string> Remarks(const StageProgress& stage) {
  std::vector<std::string> remarks;
  if (stage.has_end_time()) {
    remarks.push_back(stage.has_start_time() ? absl::StrCat("done in ", DurationText(Taken(stage)))
                                             : "done");
  } else {
    if (stage.rate() > 0) remarks.push_back(absl::StrCat(NumberText(stage.rate()), "/s"));
    if (stage.has_eta()) {
      const auto left = absl::Milliseconds(TimeUtil::DurationToMilliseconds(stage.eta()));
      remarks.push_back(absl::StrCat(DurationText(left), " left"));
    }
  }
  if (stage.reused() > 0) remarks.push_back(absl::StrCat(CountText(stage.reused()), " reused"));
  return remarks;
}

std::string Cut(const std::string& line, int columns) {
  size_t end = 0;
  int width = 0;
  while (end < line.size()) {
    size_t next = end + 1;
    while (next < line.size() && (line[next] & 0xC0) == 0x80) ++next;
    if (++width > columns) break;
    end = next;
  }
  return line.substr(0, end);
}

std::string Head(const Job& job) {
  std::string head = job.name();
  if (!job.spec().display_name().empty()) {
    absl::StrAppend(&head, " (", job.spec().display_name(), ")");
  }
  absl::StrAppend(&head, "  ", StateName(job.state()));
  if (job.checkpoint_step() > 0) {
    absl::StrAppend(&head, "  checkpoint at step ", CountText(job.checkpoint_step()));
  }
  return head;
}

std::string StageText(const StageProgress& stage) { return absl::StrJoin(Remarks(stage), "  "); }

// "train" -> "train    "
std::string Padded(const std::string& name) {
  return name + std::string(std::max<int>(0, kNameWidth - static_cast<int>(name.size())), ' ');
}

}  // namespace

std::string StateName(Job::State state) {
  switch (state) {
    case Job::STATE_RUNNING:
      return "running";
    case Job::STATE_PAUSED:
      return "paused";
    case Job::STATE_CANCELLED:
      return "cancelled";
    case Job::STATE_SUCCEEDED:
      return "succeeded";
    case Job::STATE_FAILED:
      return "failed";
    default:
      return "unknown";
  }
}

std::string StageName(Stage stage) {
  switch (stage) {
    case coordinator::v1::STAGE_SIMULATE:
      return "simulate";
    case coordinator::v1::STAGE_TRAIN:
      return "train";
    case coordinator::v1::STAGE_EXPORT:
      return "export";
    case coordinator::v1::STAGE_EVALUATE:
      return "evaluate";
    default:
      return "unknown";
  }
}

bool IsFinal(Job::State state) {
  return state == Job::STATE_SUCCEEDED || state == Job::STATE_FAILED ||
         state == Job::STATE_CANCELLED;
}

std::string Bar(int64_t done, int64_t total, int width) {
  int filled = 0;
  if (total > 0) {
    const double share = std::clamp(static_cast<double>(done) / static_cast<double>(total), 0., 1.);
    filled = static_cast<int>(share * width);
  }
  return absl::StrCat("[", std::string(filled, '#'), std::string(width - filled, '-'), "]");
}

std::vector<std::string> ProgressLines(const Job& job, int columns) {
  std::vector<std::string> lines = {Head(job)};
  for (const StageProgress& stage : job.stages()) {
    lines.push_back(absl::StrCat("  ", Padded(StageName(stage.stage())), " ",
                                 Bar(stage.done(), stage.total(), kBarWidth), "  ", Counts(stage),
                                 "  ", StageText(stage)));
  }
  for (const std::string& note : job.health()) lines.push_back(absl::StrCat("  ! ", note));
  if (!job.error().empty()) lines.push_back(absl::StrCat("  error: ", job.error()));
  for (std::string& line : lines) {
    line = Cut(common::WithoutControls(absl::StripTrailingAsciiWhitespace(line)), columns);
  }
  return lines;
}

std::vector<std::string> PlainProgress::Update(const Job& job, absl::Duration now) {
  std::vector<std::string> lines;
  if (job.state() != state_) {
    state_ = job.state();
    lines.push_back(Head(job));
  }
  const std::set<std::string> health(job.health().begin(), job.health().end());
  for (const std::string& note : job.health()) {
    if (!health_.contains(note)) lines.push_back(absl::StrCat("  health: ", note));
  }
  if (health.empty() && !health_.empty()) lines.push_back("  health: good again");
  health_ = health;
  for (const StageProgress& stage : job.stages()) {
    Seen& seen = stages_[stage.stage()];
    const bool starts = stage.has_start_time() && !seen.started;
    const bool ends = stage.has_end_time() && !seen.ended;
    const bool moved = stage.has_start_time() && !stage.has_end_time() &&
                       stage.done() != seen.done && now - seen.printed >= kInterval;
    if (!starts && !ends && !moved) continue;
    seen = {.started = stage.has_start_time(),
            .ended = stage.has_end_time(),
            .printed = now,
            .done = stage.done()};
    lines.push_back(std::string(absl::StripTrailingAsciiWhitespace(absl::StrCat(
        "  ", Padded(StageName(stage.stage())), " ", Counts(stage), "  ", StageText(stage)))));
  }
  if (IsFinal(job.state()) && !job.error().empty()) {
    lines.push_back(absl::StrCat("  error: ", job.error()));
  }
  for (std::string& line : lines) line = common::WithoutControls(line);
  return lines;
}

}  // namespace d2g::cli
