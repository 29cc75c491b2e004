// The words that a string field may be.
#pragma once

#include <string>
#include <vector>

#include "d2g/common/v1/rule.pb.h"

namespace d2g::spec {

// The words that a string field may have: the rule's own, or those of the list that it names. Empty
// when any string may stand there.
// REQUIRES: a list that is named is one of kWordLists (spec_test checks every field).
std::vector<std::string> WordsOf(const common::v1::Rule& rule);

}  // namespace d2g::spec
