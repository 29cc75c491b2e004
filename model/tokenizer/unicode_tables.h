// Where the tokenizers' notions of Unicode differ from utf8proc's: sorted tables, used by
// unicode.cc only. "More" is what utf8proc does not count among them.
#pragma once

#include <cstddef>

namespace d2g::model {

struct CodeRange {
  char32_t first, last;
};
struct CodePair {
  char32_t from, to;
};

// The version of Unicode that utf8proc had when the tables were made. With another one they have to
// be made anew: what is new to it may be unassigned to Python.
extern const char kUtf8procUnicodeVersion[];
extern const CodeRange kMoreLettersTable[], kMoreNumbersTable[], kMoreControlsTable[],
    kMoreWordTable[], kMoreCasedTable[], kMoreCaseIgnorableTable[];
extern const size_t kMoreLettersCount, kMoreNumbersCount, kMoreControlsCount, kMoreWordCount,
    kMoreCasedCount, kMoreCaseIgnorableCount;
// What utf8proc orders or decomposes and the tokenizers package takes for an ordinary character.
extern const CodeRange kNewerNormalizationTable[];
extern const size_t kNewerNormalizationCount;
extern const CodePair kMoreLowerTable[];
extern const size_t kMoreLowerCount;

}  // namespace d2g::model
