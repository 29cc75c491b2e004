// Sorted tables of Unicode properties; used by unicode.cc only.
#pragma once

#include <cstddef>

namespace d2g::model {

struct CodeRange {
  char32_t first, last;
};
struct CodePair {
  char32_t from, to;
};
// Combining classes: first, last, class. Decompositions: code, first part, second part or 0.
// Compositions: first part, second part, code.
struct CodeTriple {
  char32_t a, b, c;
};

extern const CodeRange kLetterTable[], kNumberTable[], kControlTable[], kSpaceTable[],
    kSeparatorTable[], kWordTable[], kCasedTable[], kCaseIgnorableTable[],
    kNewerNormalizationTable[];
extern const size_t kLetterCount, kNumberCount, kControlCount, kSpaceCount, kSeparatorCount,
    kWordCount, kCasedCount, kCaseIgnorableCount, kNewerNormalizationCount;
extern const CodePair kLowerTable[];
extern const size_t kLowerCount;
extern const CodeTriple kCombiningClassTable[], kDecompositionTable[], kCompositionTable[];
extern const size_t kCombiningClassCount, kDecompositionCount, kCompositionCount;

}  // namespace d2g::model
