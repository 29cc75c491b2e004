// What d2g model check makes of the figures of a few trajectories.
#include "model/tool/teacher_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

namespace d2g::model {
namespace {

using ::testing::HasSubstr;
using Verdict = CheckLine::Verdict;

TeacherFigures Good() {
  TeacherFigures f;
  f.trajectories = 4;
  f.steps = 50;
  f.guidance = 3;
  f.deviation = 0.9;
  f.noise_effect = 1.2;
  f.prompt_effect = 0.8;
  f.picture_deviation = 0.5;
  f.clipped = 0.1;
  f.picture = "2 prompts x 2 noises of 32x32 in x.png";
  f.arithmetic_floor = 0.004;
  f.storage_floor = 2e-4;
  f.picture_psnr = 50;
  f.seconds_per_trajectory = 0.0864;
  return f;
}

TEST(TeacherCheckTest, AGoodTeacherHasNoWarnings) {
  std::string all;
  for (const CheckLine& line : JudgeTeacher(Good())) {
    EXPECT_EQ(line.verdict, Verdict::kOk) << line.topic;
    all += line.what + "\n";
  }
  EXPECT_THAT(all, HasSubstr("4 trajectories of 50 steps, guidance 3"));
  EXPECT_THAT(all, HasSubstr("2 prompts x 2 noises of 32x32 in x.png"));
  EXPECT_THAT(all, HasSubstr("fp16 arithmetic changes latents by 0.4 % (pictures: PSNR 50 dB)"));
  EXPECT_THAT(all, HasSubstr("a million take 24.0 h"));
}

TEST(TeacherCheckTest, EachTroubleIsOneLineWithAdvice) {
  struct Case {
    const char* topic;
    const char* what;
    const char* advice;
    std::function<void(TeacherFigures&)> change;
  };
  const Case kCases[] = {
      {"spread", "deviation 12", "prediction_type", [](TeacherFigures& f) { f.deviation = 12; }},
      {"spread", "deviation 0.01", "scaling_factor", [](TeacherFigures& f) { f.deviation = 0.01; }},
      {"noise", "0.1 %", "all seeds", [](TeacherFigures& f) { f.noise_effect = 1e-3; }},
      {"prompt", "0.1 %", "guidance", [](TeacherFigures& f) { f.prompt_effect = 1e-3; }},
      {"pictures", "deviation 0.001", "vae", [](TeacherFigures& f) { f.picture_deviation = 1e-3; }},
      {"pictures", "95 % of values", "vae", [](TeacherFigures& f) { f.clipped = 0.95; }},
      {"floor", "changes latents by 30 %", "compute_dtype",
       [](TeacherFigures& f) { f.arithmetic_floor = 0.3; }},
  };
  for (const Case& item : kCases) {
    TeacherFigures figures = Good();
    item.change(figures);
    int warnings = 0;
    for (const CheckLine& line : JudgeTeacher(figures)) {
      if (line.verdict == Verdict::kOk) continue;
      ++warnings;
      EXPECT_EQ(line.verdict, Verdict::kWarning);
      EXPECT_EQ(line.topic, item.topic);
      EXPECT_THAT(line.what, HasSubstr(item.what));
      EXPECT_THAT(line.advice, HasSubstr(item.advice));
    }
    EXPECT_EQ(warnings, 1) << item.topic << " " << item.what;
  }
}

TEST(TeacherCheckTest, WithoutFiniteLatentsNothingElseIsSaid) {
  TeacherFigures figures = Good();
  figures.not_finite = 3;
  const auto lines = JudgeTeacher(figures);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0].verdict, Verdict::kBad);
  EXPECT_THAT(lines[0].what, HasSubstr("3 of 4 trajectories"));
}

TEST(TeacherCheckTest, AFloorThatWasNotMeasuredSaysWhy) {
  TeacherFigures figures = Good();
  figures.arithmetic_floor = -1;
  figures.floor_trouble = "not implemented for 'Half'";
  std::string all;
  for (const CheckLine& line : JudgeTeacher(figures)) all += line.what + "\n";
  EXPECT_THAT(all, HasSubstr("storing latents in fp16 changes them by 0.02 %; arithmetic not "
                             "tried: not implemented for 'Half'"));
}

}  // namespace
}  // namespace d2g::model
