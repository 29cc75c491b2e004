// Recorded evaluations: when they are used, and that nothing is lost when they fail. The recorder
// here does again on the CPU what it was given; the GPU's own is tried where there is one.
#include <ATen/core/grad_mode.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "model/files/error.h"
#include "model/network/unet_2d_condition.h"
#include "model/network/unet_evaluator.h"
#include "model/weights/random_weights.h"

namespace d2g::model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kTiny = R"({"block_out_channels":[32,64],"norm_num_groups":4,
    "down_block_types":["DownBlock2D","CrossAttnDownBlock2D"],
    "up_block_types":["CrossAttnUpBlock2D","UpBlock2D"],"layers_per_block":1,
    "cross_attention_dim":16,"attention_head_dim":2})";

// What a recorder was asked to do, and what it is to get wrong.
struct Script {
  enum class Fault { kNone, kWarmUp, kRecord, kReplay, kSecondReplay, kStale };
  Fault fault = Fault::kNone;
  std::vector<std::string> calls;
};

class ScriptedRecorder final : public WorkRecorder {
 public:
  explicit ScriptedRecorder(Script* script) : script_(script) {}

  void WarmUp(const Work& work) override {
    Call("warm up", Script::Fault::kWarmUp);
    work();
  }
  void Record(const Work& work) override {
    Call("record", Script::Fault::kRecord);
    work_ = work;
    work_();
  }
  void Replay() override {
    Call("replay", replays_++ == 0 ? Script::Fault::kReplay : Script::Fault::kSecondReplay);
    if (script_->fault != Script::Fault::kStale) work_();
  }

 private:
  void Call(const char* name, Script::Fault fault) {
    script_->calls.emplace_back(name);
    TORCH_CHECK(script_->fault != fault, name, " is out of order");
  }

  Script* const script_;
  Work work_;
  int replays_ = 0;
};

// Collects what is warned of instead of printing it.
class Warnings final : public c10::WarningHandler {
 public:
  void process(const c10::Warning& warning) override { messages.push_back(warning.msg()); }
  std::vector<std::string> messages;
};

class UNetEvaluatorTest : public ::testing::Test {
 protected:
  UNetEvaluatorTest()
      : config_(UNetConfig::FromJson(kTiny, "tiny")),
        unet_(config_, RandomParameters(1, UNet2DConditionModel::ParameterShapes(config_))),
        conditions_(unet_.PrepareConditions(UNetConditions{at::randn({4, 3, 16})})) {
    for (int i = 0; i < 6; ++i) samples_.push_back(at::randn({2, 4, 8, 8}));
  }

  // Six evaluations with a recorder that follows the script; counts those of the network.
  std::vector<at::Tensor> Run(Script* script) {
    forwards_ = 0;
    UNetEvaluator evaluator(
        [this](const at::Tensor& sample, const at::Tensor& timestep) {
          ++forwards_;
          return unet_.Forward(sample, timestep, conditions_);
        },
        script == nullptr ? nullptr : std::make_unique<ScriptedRecorder>(script));
    std::vector<at::Tensor> outputs;
    const c10::WarningUtils::WarningHandlerGuard guard(&warnings_);
    for (size_t i = 0; i < samples_.size(); ++i) {
      outputs.push_back(evaluator.Evaluate(samples_[i], Timestep(i)));
    }
    recorder_failed_ = evaluator.recorder_failed();
    return outputs;
  }

  static at::Tensor Timestep(size_t i) {
    return at::full({1}, 900.0 - 100.0 * static_cast<double>(i));
  }

  void ExpectPlainResults(const std::vector<at::Tensor>& outputs) {
    ASSERT_EQ(outputs.size(), samples_.size());
    for (size_t i = 0; i < samples_.size(); ++i) {
      EXPECT_TRUE(
          at::allclose(outputs[i], unet_.Forward(samples_[i], Timestep(i), conditions_), 0, 1e-6))
          << i;
    }
  }

  const at::NoGradGuard no_grad_;
  const UNetConfig config_;
  const UNet2DConditionModel unet_;
  const PreparedConditions conditions_;
  std::vector<at::Tensor> samples_;
  int forwards_ = 0;
  bool recorder_failed_ = false;
  Warnings warnings_;
};

TEST_F(UNetEvaluatorTest, IsPlainWithoutARecorder) {
  ExpectPlainResults(Run(nullptr));
  EXPECT_EQ(forwards_, 6);
  EXPECT_FALSE(recorder_failed_);
}

TEST_F(UNetEvaluatorTest, ReplaysFromTheThirdEvaluationOn) {
  Script script;
  ExpectPlainResults(Run(&script));
  EXPECT_THAT(script.calls,
              ElementsAre("warm up", "record", "replay", "replay", "replay", "replay"));
  EXPECT_THAT(warnings_.messages, ElementsAre());
  EXPECT_FALSE(recorder_failed_);
  // Two plain ones, a third beside the record, and the work that this recorder does itself: once as
  // it records and at each replay.
  EXPECT_EQ(forwards_, 3 + 1 + 4);
}

// The recorder's own errors, and replays that do not compute what they should.
TEST_F(UNetEvaluatorTest, GoesOnPlainlyWhenTheRecorderFails) {
  using Fault = Script::Fault;
  const struct {
    Fault fault;
    size_t calls;
    const char* message;
  } cases[] = {
      {Fault::kWarmUp, 1, "warm up is out of order"},
      {Fault::kRecord, 2, "record is out of order"},
      {Fault::kReplay, 3, "replay is out of order"},
      {Fault::kSecondReplay, 4, "replay is out of order"},
      {Fault::kStale, 3, "a replay differs from an evaluation by"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.message);
    Script script;
    script.fault = c.fault;
    warnings_.messages.clear();
    ExpectPlainResults(Run(&script));
    EXPECT_EQ(script.calls.size(), c.calls);
    EXPECT_THAT(warnings_.messages, ElementsAre(HasSubstr(c.message)));
    EXPECT_TRUE(recorder_failed_);
  }
}

// An error of the network itself is the caller's to see.
TEST_F(UNetEvaluatorTest, PassesOnTheNetworksErrors) {
  for (const int failing : {1, 2, 3, 4}) {
    Script script;
    int calls = 0;
    UNetEvaluator evaluator(
        [&](const at::Tensor& sample, const at::Tensor&) {
          if (++calls >= failing) Fail("no more");
          return sample + 1;
        },
        std::make_unique<ScriptedRecorder>(&script));
    const c10::WarningUtils::WarningHandlerGuard guard(&warnings_);
    int done = 0;
    EXPECT_THROW(for (; done < 6; ++done) evaluator.Evaluate(samples_[0], Timestep(0)), Error);
    EXPECT_EQ(done, std::min(failing - 1, 2));
  }
}

TEST(IsWorthRecordingTest, SmallBatchesOfLongRunsAre) {
  EXPECT_TRUE(IsWorthRecording(2, 64, 64, 50));
  EXPECT_TRUE(IsWorthRecording(4, 64, 64, 12));
  EXPECT_FALSE(IsWorthRecording(5, 64, 64, 50));
  EXPECT_FALSE(IsWorthRecording(2, 128, 128, 50));
  EXPECT_FALSE(IsWorthRecording(2, 64, 64, 11));
}

// With the GPU's recorder: the network's whole evaluation can be recorded, and gives the same; also
// with inference tensors, as a worker has them.
TEST_F(UNetEvaluatorTest, RecordsOnAGpu) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no GPU";
  SetCudaGraphs(true);
  for (const at::ScalarType dtype : {at::kHalf, at::kBFloat16, at::kFloat}) {
    for (const bool inference : {false, true}) {
      SCOPED_TRACE(::testing::Message() << dtype << (inference ? ", inference mode" : ""));
      const c10::InferenceMode mode(inference);
      const at::NoGradGuard no_grad;
      const at::TensorOptions options = at::device(at::kCUDA).dtype(dtype);
      const UNet2DConditionModel unet(
          config_, RandomParameters(1, UNet2DConditionModel::ParameterShapes(config_)), options);
      const PreparedConditions conditions =
          unet.PrepareConditions(UNetConditions{at::randn({4, 3, 16}).to(options)});
      int forwards = 0;
      UNetEvaluator evaluator(
          [&](const at::Tensor& sample, const at::Tensor& timestep) {
            ++forwards;
            return unet.Forward(sample, timestep, conditions);
          },
          MakeCudaGraph(at::kCUDA));
      const c10::WarningUtils::WarningHandlerGuard guard(&warnings_);
      for (size_t i = 0; i < samples_.size(); ++i) {
        const at::Tensor sample = samples_[i].cuda(), timestep = Timestep(i).cuda();
        const at::Tensor output = evaluator.Evaluate(sample, timestep);
        const at::Tensor plain = unet.Forward(sample, timestep, conditions);
        EXPECT_LE((output - plain).abs().max().item<double>(),
                  1e-2 * plain.abs().max().item<double>());
      }
      EXPECT_EQ(forwards, 4);
      EXPECT_FALSE(evaluator.recorder_failed());
      EXPECT_THAT(warnings_.messages, ElementsAre());
    }
  }
  EXPECT_TRUE(ReleaseGraphMemory());
  EXPECT_FALSE(ReleaseGraphMemory());
  SetCudaGraphs(false);
  EXPECT_EQ(MakeCudaGraph(at::kCUDA), nullptr);
  SetCudaGraphs(true);
}

// A capture that fails leaves the device as it was: random numbers, and the next record.
TEST_F(UNetEvaluatorTest, AFailedRecordLeavesTheGpuUsable) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no GPU";
  SetCudaGraphs(true);
  for (const bool fails : {true, false}) {
    int calls = 0;
    UNetEvaluator evaluator(
        [&](const at::Tensor& sample, const at::Tensor& timestep) {
          // Waits for the device, which a capture forbids.
          if (++calls == 4 && fails) (void)timestep.item<double>();
          return sample + timestep;
        },
        MakeCudaGraph(at::kCUDA));
    const c10::WarningUtils::WarningHandlerGuard guard(&warnings_);
    for (size_t i = 0; i < samples_.size(); ++i) {
      const at::Tensor output = evaluator.Evaluate(samples_[i].cuda(), Timestep(i).cuda());
      EXPECT_TRUE(at::equal(output.cpu(), samples_[i] + Timestep(i)));
    }
    EXPECT_EQ(evaluator.recorder_failed(), fails);
    EXPECT_EQ(at::randn({1}, at::kCUDA).numel(), 1);
  }
  EXPECT_EQ(warnings_.messages.size(), 1U);
}

TEST(MakeCudaGraphTest, IsForGpusAlone) { EXPECT_EQ(MakeCudaGraph(at::kCPU), nullptr); }

}  // namespace
}  // namespace d2g::model
