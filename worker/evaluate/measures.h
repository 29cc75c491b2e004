// The figures of the evaluation, computed from pictures.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model/text_to_image.h"
#include "worker/distil/discriminator.h"
#include "worker/distil/generator.h"
#include "worker/distil/sequential_net.h"
#include "worker/evaluate/frechet.h"
#include "worker/evaluate/held_out.h"
#include "worker/evaluate/intervals.h"
#include "worker/evaluate/pictures.h"

namespace d2g::evaluate {

// A named figure with its 95 % interval.
struct NamedInterval {
  std::string name;
  evaluate::Interval interval;
};

// The frozen judge: a pixel classifier and what it sees in real held-out pictures.
struct Evaluator {
  // Reads config.json, model.safetensors and reference.safetensors. Throws model::Error naming the
  // file and what is wrong.
  static Evaluator Load(const std::string& folder);

  distil::SequentialNet network;
  evaluate::FeatureMoments reference;
};

// "frechet_distance", "class_agreement", "paired_distance", "diversity", in that order. Class
// agreement is left out where no prompt names a class, diversity where too few prompts have several
// pictures: a long list of prompts has no two alike.
std::vector<NamedInterval> MeasureQuality(const Evaluator& evaluator, const HeldOut& held_out,
                                          const std::vector<int64_t>& label_of,
                                          const ModelPictures& made, uint64_t seed);

// Label that each held-out prompt asks for; -1: none.
std::vector<int64_t> LabelsOf(const Evaluator& evaluator, const HeldOut& held_out);

// Seconds for one picture at batch 1, medians of `repeats` after a warm-up with bootstrap
// intervals: "unet_seconds", "decode_seconds" and their sum "seconds_per_picture". Text encoding is
// left out: it is the same for all models.
std::vector<NamedInterval> TimeTeacher(const model::TextToImageModel& teacher,
                                       const HeldOut& held_out, const at::Tensor& text,
                                       const model::SolverOptions& options, int repeats,
                                       const Tick& tick);
std::vector<NamedInterval> TimeStudent(const model::TextToImageModel& teacher,
                                       const model::UNet2DConditionModel& student,
                                       const distil::OneStepGenerator& conversion,
                                       const HeldOut& held_out, const at::Tensor& text, int repeats,
                                       const Tick& tick);

// How well D tells held-out solutions from the student's pictures: "accuracy", the share of both
// whose logit is on the right side of 0, and of each half "real_accuracy" and "generated_accuracy";
// "pair_accuracy", the share of triples whose solution has the higher logit of the two. The first
// and the last again with the noise of another triple ("..._noise_shuffled") and with another
// prompt's text ("..._text_shuffled") for solution and student alike.
std::map<std::string, double> MeasureDiscriminator(const distil::Discriminator& discriminator,
                                                   const HeldOut& held_out, const at::Tensor& text,
                                                   const at::Tensor& student_latents,
                                                   const Tick& tick);

}  // namespace d2g::evaluate
