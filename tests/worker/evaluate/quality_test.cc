#include "worker/evaluate/quality.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/files/error.h"

namespace d2g::evaluate {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

const std::vector<distil::SequentialNet::Label> kLabels = {
    {"shirt", {"shirt"}}, {"t-shirt", {"t-shirt", "top"}}, {"boot", {"ankle boot", "boot"}}};

TEST(LabelOf, TakesTheLongestWord) {
  EXPECT_EQ(LabelOf("a photo of a dark shirt", kLabels), 0);
  EXPECT_EQ(LabelOf("a photo of a dark T-shirt", kLabels), 1);
  EXPECT_EQ(LabelOf("ankle boot, slim", kLabels), 2);
}

TEST(LabelOf, ComparesWholeWords) {
  EXPECT_EQ(LabelOf("reboots and stops", kLabels), -1);
  EXPECT_EQ(LabelOf("", kLabels), -1);
  EXPECT_EQ(LabelOf("reboot the boot", kLabels), 2);
}

TEST(ClassAgreement, LeavesOutPromptsWithoutALabel) {
  const Interval share = ClassAgreement(at::tensor({0L, 1L, 2L, 2L}), {0, 1, 1, -1});
  EXPECT_NEAR(share.value, 2.0 / 3, 1e-12);
  EXPECT_THAT([] { ClassAgreement(at::tensor({0L}), {-1}); },
              ThrowsMessage<model::Error>(HasSubstr("no prompt")));
}

TEST(PairedDistance, IsTheMeanSquaredDifference) {
  const at::Tensor a = at::zeros({3, 1, 2, 2}), b = at::full({3, 1, 2, 2}, 0.5F);
  const Interval distance = PairedDistance(a, b, 1);
  EXPECT_NEAR(distance.value, 0.25, 1e-9);
  EXPECT_NEAR(distance.low, 0.25, 1e-9);
  EXPECT_THAT(
      [&] {
        PairedDistance(a, at::zeros({2, 1, 2, 2}), 1);
      },
      ThrowsMessage<model::Error>(HasSubstr("[2, 1, 2, 2]")));
}

TEST(Diversity, IsMeasuredWithinPrompts) {
  // Prompt 5: distance 5; prompt 9: distances 1, 2, 1; prompt 7 has one picture.
  const at::Tensor features =
      at::tensor({0.0F, 0.0F, 3.0F, 4.0F, 10.0F, 0.0F, 11.0F, 0.0F, 12.0F, 0.0F, 99.0F, 99.0F})
          .view({6, 2});
  const Interval diversity = Diversity(features, {5, 5, 9, 9, 9, 7}, 1);
  EXPECT_NEAR(diversity.value, (5 + 4.0 / 3) / 2, 1e-6);
  EXPECT_THAT(
      [&] {
        Diversity(features, {1, 1, 2, 3, 4, 5}, 1);
      },
      ThrowsMessage<model::Error>(HasSubstr("got 1")));
}

}  // namespace
}  // namespace d2g::evaluate
