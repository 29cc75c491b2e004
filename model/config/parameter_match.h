// Which of the tensors in a network's weight files are its parameters.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "model/config/parameter_list.h"

namespace d2g::model {

// What a weight file says of one tensor.
struct StoredTensor {
  std::vector<int64_t> shape;
  std::string dtype;  // as messages name it
  bool is_floating = true;
};
using StoredTensors = std::map<std::string, StoredTensor>;

// What a tensor in a file is to a network.
struct Placement {
  std::string parameter;        // the name today; empty: it is none of the network's
  std::string why;              // where it is none, what it is; empty: not worth a word
  bool is_convolution = false;  // weights [out, in, 1, 1] stand for [out, in]
};

// How a kind of network names its parameters.
struct ParameterRules {
  // First parts of the names ("down_blocks") that the kind may have beside those that a config asks
  // for.
  std::set<std::string> modules;
  // Tells old names and what is in the file for others; without it a name is the parameter's.
  std::function<Placement(const std::string& name, const StoredTensor& tensor)> place;
};

struct ParameterMatch {
  // The tensor of each parameter, by the parameter's name.
  std::map<std::string, std::string> stored;
  // What was left out and why, a line for each reason.
  std::vector<std::string> notes;
};

// Finds a tensor for each of `wanted`. An unexpected name is harmless, and left out with a note,
// when its tensor has no elements or when it lies outside the network's modules: what diffusers
// leaves out too. Inside them it changes what the network computes (a LoRA, say). Throws Error
// naming `what` and listing up to 50 names of each kind, sorted: missing, of another shape or not
// floating point, unexpected; and where two tensors are one parameter.
ParameterMatch MatchParameters(const StoredTensors& stored, const ShapeMap& wanted,
                               const ParameterRules& rules, const std::string& what);

// The same where every unexpected name is an error.
void RequireSameParameters(const StoredTensors& stored, const ShapeMap& wanted,
                           const std::string& what);

}  // namespace d2g::model
