#include "worker/rank/training_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/files/error.h"

namespace d2g::rank {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

TEST(TrainingOptions, TheBackboneOfTheDiscriminatorNeverStandsStill) {
  coordinator::v1::TrainSpec spec;
  spec.mutable_gan()->set_learning_rate(1e-3);
  EXPECT_DOUBLE_EQ(StepOptions(spec).gan.backbone_learning_rate, 1e-4);
  spec.mutable_gan()->set_backbone_learning_rate(3e-4);
  EXPECT_DOUBLE_EQ(StepOptions(spec).gan.backbone_learning_rate, 3e-4);
}

TEST(TrainingOptions, TheDiscriminatorStartsWithItsTermUnlessToldSooner) {
  coordinator::v1::TrainSpec spec;
  spec.mutable_gan()->set_start_step(9);
  EXPECT_EQ(StepOptions(spec).gan.discriminator_start_step, 9);
  spec.mutable_gan()->set_discriminator_start_step(7);
  EXPECT_EQ(StepOptions(spec).gan.discriminator_start_step, 7);
}

TEST(TrainingOptions, NamesAScheduleThatItDoesNotKnow) {
  coordinator::v1::TrainSpec spec;
  spec.set_schedule("linear");
  EXPECT_THAT([&] { StepOptions(spec); },
              ThrowsMessage<model::Error>(HasSubstr("train.schedule is \"linear\"")));
}

}  // namespace
}  // namespace d2g::rank
