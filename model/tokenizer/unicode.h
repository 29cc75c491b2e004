// The little of Unicode that CLIP's tokenizer needs, from utf8proc and tables of where the
// tokenizers' Unicode differs from its. All functions are pure.
#pragma once

#include <string>

namespace d2g::model {

// UTF-8 to code points. Throws Error with the byte offset of a malformed sequence (overlong forms
// and surrogates included).
std::u32string DecodeUtf8(const std::string& text);
void AppendUtf8(char32_t c, std::string& out);

bool IsLetter(char32_t c);      // general category L
bool IsNumber(char32_t c);      // general category N
bool IsControl(char32_t c);     // general category C but tab, line feed, carriage return
bool IsSpace(char32_t c);       // what Python's str.split() splits at
bool IsWhiteSpace(char32_t c);  // property White_Space: IsSpace without the information separators
bool IsSeparator(char32_t c);   // general category Zs
bool IsWord(char32_t c);        // \w of a regular expression
bool IsCjkIdeograph(char32_t c);

// Two versions of Unicode are in use: Python's, and an older one in the tokenizers package, to
// which some marks are ordinary characters.
enum class Normalization { kPython, kTokenizers };

// Canonical composition (NFC).
std::u32string NormalizeNfc(const std::u32string& text, Normalization version);

// Python's str.lower(), the final sigma included. `final_sigma` false lowers each code point alone,
// as the fast tokenizer does.
std::u32string ToLower(const std::u32string& text, bool final_sigma);

}  // namespace d2g::model
