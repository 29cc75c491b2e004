// The whole job file with its help, made from the same protos that check it.
#pragma once

#include <string>

namespace d2g::spec {

// YAML that d2g submit reads: every field of JobSpec with its comment, its limits and its default;
// fields without a default are left empty. `width` is the longest line of a comment.
std::string AnnotatedSpec(int width = 100);

}  // namespace d2g::spec
