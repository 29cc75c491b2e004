// How CLIP's tokenizers clean text and cut it into the pieces that byte-pair encoding sees.
// Source: transformers 4.57.6 and 5.24.0, models/clip/tokenization_clip.py; tokenizers 0.22.2.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace d2g::model {

// BasicTokenizer: control characters are dropped, CJK characters set apart, then NFC, single spaces
// between words, lower case.
std::u32string CleanSlow(std::u32string_view text);

// The fast tokenizer's normaliser: NFC, single spaces, lower case.
std::u32string CleanFast(std::u32string_view text);

// Contractions, runs of letters, single digits and runs of the rest; white space is dropped. The
// slow pattern ignores case, which after lowering concerns the long s only, and knows the texts of
// the start and end tokens, which are pieces of their own. The fast pattern of transformers 5 knows
// these two, too, where a piece may begin, but what follows it cuts them into three pieces.
enum class SplitPattern { kSlow, kFast, kFast5 };
std::vector<std::u32string_view> SplitPieces(std::u32string_view text, SplitPattern pattern);

}  // namespace d2g::model
