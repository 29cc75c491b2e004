// Judges what a few trial trajectories of a teacher showed. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace d2g::model {

struct TeacherFigures {
  int64_t trajectories = 0;
  int64_t steps = 0;
  double guidance = 0;
  int64_t not_finite = 0;  // trajectories whose latents have NaN or infinity
  // Mean and standard deviation of all latents.
  double mean = 0;
  double deviation = 0;
  // Root mean square of the difference between latents that started from different noise under one
  // prompt, and under different prompts from one noise; each over that of the latents.
  double noise_effect = 0;
  double prompt_effect = 0;
  // Pictures are in [-1, 1]: how far their values spread, and the share at the limits.
  double picture_deviation = 0;
  double clipped = 0;
  std::string picture;  // "2x2 pictures of 512x512 in grid.png"
  // What half precision changes, root mean square over that of the latents: of the arithmetic of
  // the networks, and of storing the latents alone. Negative: not measured, and why.
  std::string half = "fp16";
  double arithmetic_floor = -1;
  double storage_floor = -1;
  double picture_psnr = 0;  // decibel, of the pictures
  std::string floor_trouble;
  double seconds_per_trajectory = 0;
};

struct CheckLine {
  enum class Verdict { kOk, kWarning, kBad };
  Verdict verdict = Verdict::kOk;
  std::string topic;   // "finite"
  std::string what;    // the figures
  std::string advice;  // what it means or what to do; empty when all is well
};

// Finite, spread, noise, prompt, pictures, noise floor and speed, in this order. Without finite
// latents there is nothing more to say than that.
std::vector<CheckLine> JudgeTeacher(const TeacherFigures& figures);

}  // namespace d2g::model
