// Judges what a machine has for d2g and says what to do about each finding. Pure.
#pragma once

#include <string>
#include <vector>

#include "cli/machine_facts.h"

namespace d2g::cli {

enum class Verdict {
  kOk,
  kWarning,  // d2g runs, but slower, smaller or with a risk
  kBad,      // what was asked for will not run
};

struct Finding {
  Verdict verdict = Verdict::kOk;
  std::string topic;   // "disk", "driver"; one word
  std::string what;    // the fact, with its numbers
  std::string advice;  // what to do; empty when all is well
};

// One or more findings a topic, in the order: programs, libtorch, device, nccl, cpu, memory,
// limits, disk, ports.
std::vector<Finding> Diagnose(const MachineFacts& facts);

}  // namespace d2g::cli
