// What the tokenizers ask of Unicode, where the references disagree with each other or with the
// library. Every code point is compared with transformers in tools/parity.
#include "model/tokenizer/unicode.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <utf8proc.h>

#include "model/files/error.h"
#include "model/tokenizer/unicode_tables.h"

namespace d2g::model {
namespace {

std::string WhyNot(const std::string& text) {
  try {
    DecodeUtf8(text);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(UnicodeTest, TheTablesAreMadeForTheLinkedLibrary) {
  EXPECT_STREQ(utf8proc_unicode_version(), kUtf8procUnicodeVersion)
      << "run tools/unicode_tables.py again";
}

TEST(UnicodeTest, ALetterNewerThanTheLibraryIsALetterAndWhatPythonLacksIsControl) {
  EXPECT_TRUE(IsLetter(0x2EBF0));  // an ideograph of Unicode 15.1
  EXPECT_TRUE(IsNumber(0x10D40));
  EXPECT_EQ(ToLower(U"\U00010D50", false), U"\U00010D70");
  EXPECT_TRUE(IsControl(0x31350));  // of Unicode 15, which Python 3.11 does not know
  EXPECT_TRUE(IsLetter(0x31350));
  EXPECT_FALSE(IsControl('\n'));
  EXPECT_TRUE(IsSpace(0x1C));
  EXPECT_FALSE(IsWhiteSpace(0x1C));
  EXPECT_TRUE(IsWord(0x200D));
}

TEST(UnicodeTest, ComposesAsTheLibraryButAroundMarksThatTheFastTokenizerDoesNotKnow) {
  EXPECT_EQ(NormalizeNfc(U"e\u0301", Normalization::kPython), U"\u00E9");
  EXPECT_EQ(NormalizeNfc(U"e\u0301", Normalization::kTokenizers), U"\u00E9");
  EXPECT_EQ(NormalizeNfc(U"\u1112\u1161\u11AB", Normalization::kPython), U"\uD55C");
  // Excluded from composition.
  EXPECT_EQ(NormalizeNfc(U"\u2ADC", Normalization::kPython), U"\u2ADD\u0338");
  // U+1ABF has the class 220 and comes before U+0301, of 230; to the fast tokenizer it is a letter
  // like any other, behind which nothing moves.
  EXPECT_EQ(NormalizeNfc(U"e\u0301\u1ABF", Normalization::kPython), U"\u00E9\u1ABF");
  EXPECT_EQ(NormalizeNfc(U"e\u1ABF\u0301", Normalization::kPython), U"\u00E9\u1ABF");
  EXPECT_EQ(NormalizeNfc(U"e\u1ABF\u0301", Normalization::kTokenizers), U"e\u1ABF\u0301");
  // Both know the parts, but only Python the vowel that they make.
  EXPECT_EQ(NormalizeNfc(U"\U00011935\U00011930", Normalization::kPython), U"\U00011938");
  EXPECT_EQ(NormalizeNfc(U"\U00011935\U00011930", Normalization::kTokenizers),
            U"\U00011935\U00011930");
}

TEST(UnicodeTest, ASigmaIsFinalBehindACasedLetterAndBeforeNone) {
  EXPECT_EQ(ToLower(U"\u039F\u03A3", true), U"\u03BF\u03C2");
  EXPECT_EQ(ToLower(U"\u039F\u03A3", false), U"\u03BF\u03C3");
  EXPECT_EQ(ToLower(U"\u039F\u03A3'\u039F", true), U"\u03BF\u03C3'\u03BF");
  EXPECT_EQ(ToLower(U"\u0130", true), U"i\u0307");
}

TEST(UnicodeTest, MalformedUtf8IsNamedByItsFirstByte) {
  EXPECT_EQ(WhyNot("ab\x80"), "text is not valid UTF-8 at byte 2");
  EXPECT_EQ(WhyNot("a\xC0\x80"), "text is not valid UTF-8 at byte 1");         // too long a form
  EXPECT_EQ(WhyNot("\xED\xA0\x80"), "text is not valid UTF-8 at byte 0");      // a surrogate
  EXPECT_EQ(WhyNot("abc\xF0\x9F\x98"), "text is not valid UTF-8 at byte 3");   // cut
  EXPECT_EQ(WhyNot("\xF4\x90\x80\x80"), "text is not valid UTF-8 at byte 0");  // beyond the last
  EXPECT_EQ(WhyNot("\xF0\x9F\x98\x80"), "");
}

}  // namespace
}  // namespace d2g::model
