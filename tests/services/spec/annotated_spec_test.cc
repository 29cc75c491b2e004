#include "services/spec/annotated_spec.h"

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace d2g::spec {
namespace {

using ::testing::HasSubstr;

TEST(AnnotatedSpecTest, HasCommentLimitsAndDefaultOfAField) {
  const std::string text = AnnotatedSpec();
  EXPECT_THAT(text, HasSubstr("  # Gradient norm limit of G and of D.\n"
                              "  # (above 0, at most 1e+06; default 1)\n"
                              "  clip_norm: 1\n"));
  EXPECT_THAT(text, HasSubstr("  # (1 to 100000000; required)\n  steps:\n"));
  EXPECT_THAT(text, HasSubstr("  # (fp16, bf16, fp32; default fp16)\n  storage_dtype: fp16\n"));
  EXPECT_THAT(text, HasSubstr("(x0, sample; default x0)"));
}

TEST(AnnotatedSpecTest, EveryFieldHasAComment) {
  absl::string_view before;
  for (absl::string_view line : absl::StrSplit(AnnotatedSpec(), '\n')) {
    const absl::string_view bare = absl::StripLeadingAsciiWhitespace(line);
    if (!bare.empty() && bare[0] != '#') {
      EXPECT_TRUE(absl::StartsWith(absl::StripLeadingAsciiWhitespace(before), "# ")) << line;
    }
    EXPECT_LE(line.size(), 100U) << line;
    before = line;
  }
}

}  // namespace
}  // namespace d2g::spec
