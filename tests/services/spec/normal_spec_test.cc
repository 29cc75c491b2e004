// What NormalizeTrainSpec does for one who has a train spec alone;
// tests/coordinator/job_spec_test.cc goes through every field of a whole job.
#include "services/spec/normal_spec.h"

#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace d2g::spec {
namespace {

using common::v1::TrainSpec;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TrainSpec Minimal() {
  TrainSpec train;
  train.set_steps(100);
  return train;
}

std::string Faults(TrainSpec train) {
  return absl::StrJoin(NormalizeTrainSpec(&train), "; ", [](std::string* out, const auto& fault) {
    absl::StrAppend(out, fault.field, " ", fault.description);
  });
}

TEST(NormalizeTrainSpec, FillsInWhatFollowsFromOtherFields) {
  TrainSpec train = Minimal();
  train.mutable_gan()->set_learning_rate(1e-3);
  train.mutable_gan()->set_start_step(9);
  ASSERT_THAT(NormalizeTrainSpec(&train), IsEmpty());
  EXPECT_EQ(train.learning_rate(), 5e-4);
  EXPECT_EQ(train.checkpoint_every(), 10);
  EXPECT_EQ(train.regression().pseudo_huber_weight(), 1);
  EXPECT_EQ(train.gan().discriminator_start_step(), 9);
  EXPECT_DOUBLE_EQ(train.gan().backbone_learning_rate(), 1e-4);
}

TEST(NormalizeTrainSpec, PseudoHuberIsTheTermOfThoseWhoChooseNone) {
  TrainSpec train = Minimal();
  train.mutable_regression()->set_mse_weight(0.5);
  ASSERT_THAT(NormalizeTrainSpec(&train), IsEmpty());
  EXPECT_EQ(train.regression().pseudo_huber_weight(), 0);
}

TEST(NormalizeTrainSpec, KeepsWhatIsGiven) {
  TrainSpec train = Minimal();
  train.mutable_gan()->set_start_step(9);
  train.mutable_gan()->set_discriminator_start_step(7);
  train.mutable_gan()->set_backbone_learning_rate(3e-4);
  ASSERT_THAT(NormalizeTrainSpec(&train), IsEmpty());
  EXPECT_EQ(train.gan().discriminator_start_step(), 7);
  EXPECT_EQ(train.gan().backbone_learning_rate(), 3e-4);
  const TrainSpec before = train;
  ASSERT_THAT(NormalizeTrainSpec(&train), IsEmpty());
  EXPECT_EQ(train.SerializeAsString(), before.SerializeAsString()) << "a normal spec stays";
}

TEST(NormalizeTrainSpec, NamesWhatIsBad) {
  TrainSpec train = Minimal();
  train.set_schedule("linear");
  EXPECT_THAT(Faults(train), HasSubstr("train.schedule \"linear\" is not one of"));
  train = Minimal();
  train.mutable_gan()->set_start_step(2);
  train.mutable_gan()->set_discriminator_start_step(3);
  EXPECT_THAT(Faults(train), HasSubstr("train.gan.discriminator_start_step 3 is not from 0 to 2"));
  train = Minimal();
  train.mutable_gan()->set_mismatch_weight(0.6);
  EXPECT_THAT(Faults(train), HasSubstr("train.gan.mismatch_weight 0.6 is not from 0 to 0.4"));
  train = Minimal();
  train.mutable_gan()->set_learning_rate(0);
  EXPECT_THAT(Faults(train), HasSubstr("train.gan.learning_rate 0 is not above 0"));
  train = Minimal();
  train.mutable_gan()->set_backbone_learning_rate(0);
  EXPECT_THAT(Faults(train), HasSubstr("train.gan.backbone_learning_rate 0 is not above 0"));
  train = Minimal();
  train.mutable_regression()->set_pseudo_huber_weight(0);
  EXPECT_THAT(Faults(train), HasSubstr("G would have no regression term"));
}

}  // namespace
}  // namespace d2g::spec
