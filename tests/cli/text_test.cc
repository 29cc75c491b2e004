// Numbers, tables, progress and reports as text.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "cli/format.h"
#include "cli/progress.h"
#include "cli/report.h"
#include "cli/shard_audit.h"
#include "cli/table.h"
#include "google/protobuf/text_format.h"
#include "services/common/utf8.h"

namespace d2g::cli {
namespace {

using coordinator::v1::EvaluationReport;
using coordinator::v1::Job;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

template <typename Message>
Message FromText(const std::string& text) {
  Message message;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &message)) << text;
  return message;
}

Job RunningJob() {
  return FromText<Job>(R"pb(
    name: "jobs/a1"
    spec { display_name: "demo" }
    state: STATE_RUNNING
    stages {
      stage: STAGE_SIMULATE
      done: 512
      total: 2048
      unit: "triples"
      rate: 12.5
      reused: 256
      eta { seconds: 123 }
      start_time { seconds: 1000 }
    }
    stages { stage: STAGE_TRAIN total: 150 unit: "steps" }
  )pb");
}

TEST(Format, Counts) {
  EXPECT_EQ(CountText(0), "0");
  EXPECT_EQ(CountText(999), "999");
  EXPECT_EQ(CountText(1000), "1,000");
  EXPECT_EQ(CountText(-1234567), "-1,234,567");
}

TEST(Format, Numbers) {
  EXPECT_EQ(NumberText(0), "0");
  EXPECT_EQ(NumberText(0.01234), "0.0123");
  EXPECT_EQ(NumberText(5.678), "5.68");
  EXPECT_EQ(NumberText(-45.67), "-45.7");
  EXPECT_EQ(NumberText(999.7), "1,000");
  EXPECT_EQ(NumberText(1e-5), "1.00e-05");
}

TEST(Format, Durations) {
  EXPECT_EQ(DurationText(absl::Seconds(-1)), "0.0 s");
  EXPECT_EQ(DurationText(absl::Milliseconds(450)), "0.5 s");
  EXPECT_EQ(DurationText(absl::Seconds(59)), "59 s");
  EXPECT_EQ(DurationText(absl::Milliseconds(59'700)), "1 min 00 s");
  EXPECT_EQ(DurationText(absl::Minutes(127)), "2 h 07 min");
  EXPECT_EQ(DurationText(absl::Hours(76)), "3 d 4 h");
}

TEST(Table, AlignsByCodePoints) {
  Table table({"name", "value"});
  table.Add({"a", "1"});
  table.Add({"\xC3\xA9\xC3\xA9", "1,000"});
  EXPECT_EQ(table.ToString("> "), "> name  value\n> a         1\n> \xC3\xA9\xC3\xA9    1,000\n");
}

TEST(Progress, BarFillsWithTheShareDone) {
  EXPECT_EQ(Bar(0, 10, 4), "[----]");
  EXPECT_EQ(Bar(5, 10, 4), "[##--]");
  EXPECT_EQ(Bar(20, 10, 4), "[####]");
  EXPECT_EQ(Bar(5, 0, 4), "[----]");
}

TEST(Progress, LinesShowCountsRateAndTimeLeft) {
  EXPECT_THAT(ProgressLines(RunningJob(), 200),
              ElementsAre("jobs/a1 (demo)  running",
                          "  simulate  [######------------------]  512 / 2,048 triples  12.5/s  "
                          "2 min 03 s left  256 reused",
                          "  train     [------------------------]  0 / 150 steps"));
}

TEST(Progress, LinesFitTheTerminal) {
  for (const std::string& line : ProgressLines(RunningJob(), 40)) EXPECT_LE(line.size(), 40U);
}

TEST(Progress, PlainLinesComeOnChangesAndAtIntervals) {
  PlainProgress plain;
  Job job = RunningJob();
  EXPECT_THAT(plain.Update(job, absl::Seconds(0)),
              ElementsAre("jobs/a1 (demo)  running", HasSubstr("512 / 2,048")));
  job.mutable_stages(0)->set_done(600);
  EXPECT_THAT(plain.Update(job, absl::Seconds(1)), IsEmpty());
  EXPECT_THAT(plain.Update(job, absl::Seconds(11)), ElementsAre(HasSubstr("600 / 2,048")));
  EXPECT_THAT(plain.Update(job, absl::Seconds(30)), IsEmpty());  // nothing moved
  job.add_health("no workers");
  EXPECT_THAT(plain.Update(job, absl::Seconds(31)), ElementsAre("  health: no workers"));
  // A long note is not said again with every other one that comes or goes.
  job.add_health("no gang");
  EXPECT_THAT(plain.Update(job, absl::Seconds(31)), ElementsAre("  health: no gang"));
  job.mutable_health()->RemoveLast();
  EXPECT_THAT(plain.Update(job, absl::Seconds(31)), IsEmpty());
  job.mutable_stages(0)->set_done(2048);
  job.mutable_stages(0)->mutable_end_time()->set_seconds(1100);
  job.clear_health();
  EXPECT_THAT(plain.Update(job, absl::Seconds(32)),
              ElementsAre("  health: good again", HasSubstr("done in 1 min 40 s")));
  job.set_state(Job::STATE_FAILED);
  job.set_error("disk full");
  EXPECT_THAT(plain.Update(job, absl::Seconds(33)),
              ElementsAre("jobs/a1 (demo)  failed", "  error: disk full"));
}

TEST(Report, EvaluationShowsIntervalsAndGap) {
  const auto report = FromText<EvaluationReport>(R"pb(
    checkpoint_step: 150
    rows {
      model: "teacher_8"
      pictures: 512
      measures { name: "frechet_distance" value: 5.04 low: 4.9 high: 5.2 }
      measures { name: "seconds_per_picture" value: 0.25 low: 0.24 high: 0.26 }
    }
    rows {
      model: "student_1"
      pictures: 512
      measures { name: "frechet_distance" value: 5.3 low: 5.1 high: 5.5 }
    }
    gap_closed { key: "frechet_distance" value: 0.98 }
    discriminator { key: "accuracy" value: 0.71 }
    grid_path: "/out/grid.png"
  )pb");
  EXPECT_EQ(EvaluationTable(report),
            "evaluation of the checkpoint at step 150 on 512 held-out pictures (in brackets: 95 % "
            "intervals)\n"
            "  model              frechet distance\n"
            "  teacher, 8 steps  5.04 [4.90, 5.20]\n"
            "  student, 1 step   5.30 [5.10, 5.50]\n"
            "  gap closed                     98 %\n"
            "\n"
            "  model             ms per picture\n"
            "  teacher, 8 steps  250 [240, 260]\n"
            "  student, 1 step                -\n"
            "\n"
            "  discriminator on held-out triples: accuracy 0.710\n"
            "\n"
            "  pictures side by side: /out/grid.png\n");
}

TEST(Report, ADescriptionSaysWhoReplacedTheOutput) {
  Job job = RunningJob();
  job.mutable_spec()->set_output_dir("/out");
  job.mutable_export_()->set_path("/out/export");
  EXPECT_THAT(JobDescription(job, {}, {}, absl::FromUnixSeconds(7200)), HasSubstr("/out/export"));
  job.set_output_replaced_by("jobs/b2");
  const std::string text = JobDescription(job, {}, {}, absl::FromUnixSeconds(7200));
  EXPECT_THAT(text, HasSubstr("/out (replaced by jobs/b2; what it held is in /out/replaced/a1)"));
  EXPECT_THAT(text, ::testing::Not(HasSubstr("/out/export")));
}

TEST(Report, JobsTableHasARowAJob) {
  Job done = RunningJob();
  done.set_state(Job::STATE_SUCCEEDED);
  const std::string table = JobsTable({RunningJob(), done}, absl::FromUnixSeconds(7200));
  EXPECT_THAT(table, HasSubstr("jobs/a1  demo   running    simulate  512 / 2,048 triples  2 h"));
  EXPECT_THAT(table, HasSubstr("succeeded  -"));
}

// Each string of a peer's, filled with what a terminal obeys.
TEST(Report, NothingThatOthersWroteReachesTheTerminalRaw) {
  constexpr char kEvil[] =
      "\x1b[31mRED\x1b]0;pwned\x07\nforged \xc2\x9b"
      "2J\xe2\x80\xae"
      "txet\xff";
  const auto fill = [&](auto& self, google::protobuf::Message* message) -> void {
    const auto* reflection = message->GetReflection();
    for (int i = 0; i < message->GetDescriptor()->field_count(); ++i) {
      const auto* field = message->GetDescriptor()->field(i);
      if (field->is_map()) continue;
      if (field->cpp_type() == google::protobuf::FieldDescriptor::CPPTYPE_STRING) {
        if (field->is_repeated()) {
          reflection->AddString(message, field, kEvil);
        } else {
          reflection->SetString(message, field, kEvil);
        }
      } else if (field->cpp_type() == google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE &&
                 !absl::StartsWith(field->message_type()->full_name(), "google.")) {
        self(self, field->is_repeated() ? reflection->AddMessage(message, field)
                                        : reflection->MutableMessage(message, field));
      }
    }
  };
  Job job;
  fill(fill, &job);
  (*job.mutable_training_metrics())[kEvil] = 1;
  (*job.mutable_evaluation()->mutable_discriminator())[kEvil] = 1;
  coordinator::v1::Checkpoint checkpoint;
  fill(fill, &checkpoint);
  coordinator::v1::TaskInfo task;
  fill(fill, &task);
  job.set_state(Job::STATE_FAILED);
  PlainProgress plain;
  const std::string shown = absl::StrCat(JobsTable({job}, absl::Now()),
                                         JobDescription(job, {checkpoint}, {task}, absl::Now()),
                                         absl::StrJoin(plain.Update(job, absl::Seconds(1)), "\n"),
                                         "\n", absl::StrJoin(ProgressLines(job, 1000), "\n"), "\n",
                                         ShownStatus(absl::InternalError(kEvil)).message(), "\n");
  EXPECT_THAT(shown, HasSubstr("\\u001b[31mRED"));
  EXPECT_TRUE(common::IsUtf8(shown));
  for (const absl::string_view line : absl::StrSplit(shown, '\n')) {
    EXPECT_FALSE(common::HoldsControl(line)) << line;
    EXPECT_FALSE(absl::StartsWith(line, "forged")) << line;
  }
}

common::v1::IndexRange Range(int64_t begin, int64_t end) {
  common::v1::IndexRange range;
  range.set_begin(begin);
  range.set_end(end);
  return range;
}

common::v1::DatasetRecipe TwoShards() {
  return FromText<common::v1::DatasetRecipe>("block_size: 16 shard_count: 2");
}

TEST(ShardAudit, AllThereOnce) {
  const AuditResult result =
      AuditShards(TwoShards(),
                  {{.shard = 0, .sealed = {Range(0, 16), Range(32, 40)}, .present = 24},
                   {.shard = 1, .sealed = {Range(16, 32)}, .present = 16}},
                  40);
  EXPECT_THAT(result.problems, IsEmpty());
  EXPECT_EQ(result.sealed, 40);
  EXPECT_EQ(result.present, 40);
}

TEST(ShardAudit, FindsHolesStraysAndDamage) {
  const AuditResult result = AuditShards(
      TwoShards(),
      {{.shard = 0, .sealed = {Range(0, 8), Range(10, 16), Range(20, 24)}, .bad = {"3: checksum"}},
       {.shard = 1, .sealed = {Range(16, 32)}}},
      40);
  EXPECT_THAT(result.problems, ElementsAre("shard 0: triple 3: checksum",
                                           "shard 0: holds [20, 24), which belong to shard 1",
                                           "missing: [8, 10)", "missing: [32, 40)"));
}

TEST(ShardAudit, BoundsItsList) {
  ShardReport shard{.shard = 0};
  for (int i = 0; i < 100; ++i) shard.bad.push_back("x");
  const AuditResult result = AuditShards(TwoShards(), {shard}, 0);
  EXPECT_EQ(result.problems.size(), kMaxProblems);
  EXPECT_EQ(result.problems.back(), "and 81 more");
}

}  // namespace
}  // namespace d2g::cli
