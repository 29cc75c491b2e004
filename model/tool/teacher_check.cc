#include "model/tool/teacher_check.h"

#include <cstdio>

namespace d2g::model {

namespace {

using Verdict = CheckLine::Verdict;

// Latents of a trained model have a deviation of about 1: scaling_factor is chosen for that.
constexpr double kLeastDeviation = 0.2;
constexpr double kMostDeviation = 5;
// A seed or a prompt that changes latents by less than this changes nothing that one could see.
constexpr double kLeastEffect = 1e-2;
constexpr double kLeastPictureDeviation = 1e-2;
constexpr double kMostClipped = 0.9;
// The student's own error is some tenths; a floor well below it does no harm.
constexpr double kMostFloor = 0.1;
constexpr double kMillion = 1e6;

template <typename... Values>
std::string Format(const char* format, Values... values) {
  char text[512];
  std::snprintf(text, sizeof(text), format, values...);
  return text;
}

CheckLine Effect(const char* topic, double effect, const std::string& what,
                 const std::string& advice) {
  const bool enough = effect >= kLeastEffect;
  return {enough ? Verdict::kOk : Verdict::kWarning, topic,
          Format("another %s changes latents by %.3g %%", what.c_str(), 100 * effect),
          enough ? "" : advice};
}

CheckLine Floor(const TeacherFigures& f) {
  const std::string storage = Format("storing latents in %s changes them by %.2g %%",
                                     f.half.c_str(), 100 * f.storage_floor);
  if (f.arithmetic_floor < 0) {
    return {Verdict::kOk, "floor", storage + "; arithmetic not tried: " + f.floor_trouble, ""};
  }
  const std::string what =
      Format("%s arithmetic changes latents by %.2g %% (pictures: PSNR %.0f dB); ", f.half.c_str(),
             100 * f.arithmetic_floor, f.picture_psnr) +
      storage;
  const bool good = f.arithmetic_floor <= kMostFloor;
  return {good ? Verdict::kOk : Verdict::kWarning, "floor", what,
          good ? "" : "simulate in fp32 or bf16 (solver.compute_dtype)"};
}

std::string LongTime(double seconds) {
  if (seconds < 2 * 3600) return Format("%.0f min", seconds / 60);
  if (seconds < 48 * 3600) return Format("%.1f h", seconds / 3600);
  return Format("%.1f days", seconds / 86400);
}

}  // namespace

std::vector<CheckLine> JudgeTeacher(const TeacherFigures& f) {
  const std::string runs =
      Format("%lld trajectories of %lld steps, guidance %g", static_cast<long long>(f.trajectories),
             static_cast<long long>(f.steps), f.guidance);
  std::vector<CheckLine> lines;
  if (f.not_finite > 0) {
    lines.push_back({Verdict::kBad, "finite",
                     Format("%lld of %s end in NaN or infinity",
                            static_cast<long long>(f.not_finite), runs.c_str()),
                     "try less guidance or more steps; does prediction_type in "
                     "scheduler_config.json fit the network?"});
    return lines;
  }
  lines.push_back({Verdict::kOk, "finite", runs, ""});
  const bool spread = f.deviation >= kLeastDeviation && f.deviation <= kMostDeviation;
  lines.push_back({spread ? Verdict::kOk : Verdict::kWarning, "spread",
                   Format("latents have mean %.3g and deviation %.3g", f.mean, f.deviation),
                   spread ? ""
                          : "about 1 is usual: check prediction_type, the betas and the vae's "
                            "scaling_factor"});
  lines.push_back(Effect("noise", f.noise_effect, "noise",
                         "all seeds give one picture: the student would learn only that"));
  lines.push_back(Effect("prompt", f.prompt_effect, "prompt",
                         "the text hardly matters: check tokenizer, text encoder and guidance"));
  const bool varied = f.picture_deviation >= kLeastPictureDeviation && f.clipped <= kMostClipped;
  lines.push_back(
      {varied ? Verdict::kOk : Verdict::kWarning, "pictures",
       Format("%s; deviation %.3g, %.3g %% of values at the limits", f.picture.c_str(),
              f.picture_deviation, 100 * f.clipped),
       varied ? "look at them" : "nearly constant: does the vae belong to this U-Net?"});
  lines.push_back(Floor(f));
  lines.push_back({Verdict::kOk, "speed",
                   Format("%.3g s a trajectory: a million take ", f.seconds_per_trajectory) +
                       LongTime(f.seconds_per_trajectory * kMillion) + " on one such device",
                   ""});
  return lines;
}

}  // namespace d2g::model
