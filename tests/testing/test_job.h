// The smallest job that goes through every stage.
#pragma once

#include <string>

#include "d2g/coordinator/v1/job.pb.h"

namespace d2g::testing {

inline constexpr char kTestPrompts[] =
    "a dark shoe\na light shirt\na bag\nsmall grey trousers\na coat\na wide dress\n";

// 64-triple blocks, every eighth triple held out, a few solver steps, two ranks; the discriminator
// joins for the last third. `teacher` and `output_dir` are absolute.
inline coordinator::v1::JobSpec MakeTestJob(const std::string& teacher,
                                            const std::string& output_dir, int64_t triples,
                                            int64_t steps) {
  coordinator::v1::JobSpec spec;
  spec.set_display_name("test");
  spec.mutable_teacher()->set_path(teacher);
  spec.set_output_dir(output_dir);
  auto& simulate = *spec.mutable_simulate();
  simulate.set_triples(triples);
  simulate.set_min_triples(triples / 2);
  simulate.mutable_solver()->set_steps(6);
  simulate.mutable_solver()->set_guidance(2);
  simulate.set_seed(11);
  simulate.set_block_size(64);
  simulate.set_holdout_every(8);
  simulate.set_batch_size(8);
  simulate.set_task_size(32);
  auto& train = *spec.mutable_train();
  train.set_steps(steps);
  train.set_global_batch(8);
  train.set_min_ranks(2);
  train.set_max_ranks(2);
  train.set_learning_rate(1e-3);
  train.set_checkpoint_every(20);
  train.set_seed(5);
  train.mutable_gan()->set_weight(0.05);
  train.mutable_gan()->set_start_step(2 * steps / 3);
  return spec;
}

}  // namespace d2g::testing
