// The words that a string field may be.
#pragma once

#include <string>
#include <vector>

#include "d2g/common/v1/rule.pb.h"

namespace d2g::spec {

// Those that the rule has itself, or those of the list that it names; none: every string goes.
// REQUIRES: a list that is named is one of kWordLists, as spec_test sees to for every field.
std::vector<std::string> WordsOf(const common::v1::Rule& rule);

}  // namespace d2g::spec
