// What a task's triples are, and what is refused. How it fares when shards and leases fail is in
// simulate_runner_fault_test.cc.
#include <c10/core/CPUAllocator.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <utility>

#include "model/kernels/cuda_graph.h"
#include "model/weights/safetensors.h"
#include "services/dataset/latent_codec.h"
#include "services/dataset/noise.h"
#include "services/dataset/prompt_order.h"
#include "tests/testing/status_matchers.h"
#include "tests/worker/simulate/simulate_runner_fixture.h"
#include "worker/simulate/simulate_metrics.h"
#include "worker/simulate/teacher_cache.h"

namespace d2g::simulate {
namespace {

using ::d2g::testing::IsOk;
using ::d2g::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

// LibTorch's allocator, which refuses blocks above a limit as it does when memory is gone.
class LimitedAllocator final : public c10::Allocator {
 public:
  explicit LimitedAllocator(c10::Allocator* inner) : inner_(inner) {}
  c10::DataPtr allocate(size_t bytes) override {
    largest_ = std::max(largest_, bytes);
    return inner_->allocate(bytes > limit_ ? size_t{1} << 60 : bytes);
  }
  c10::DeleterFnPtr raw_deleter() const override { return inner_->raw_deleter(); }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    inner_->copy_data(to, from, bytes);
  }
  // The largest block since the last call.
  size_t TakeLargest() { return std::exchange(largest_, 0); }
  void Limit(size_t bytes) { limit_ = bytes; }

 private:
  c10::Allocator* const inner_;
  size_t limit_ = std::numeric_limits<size_t>::max();
  size_t largest_ = 0;
};

TEST_F(SimulateRunnerTest, TriplesAreTheTeachersSolutions) {
  lease::TaskContext context;
  ASSERT_THAT(Run(&context), IsOk());
  EXPECT_EQ(result_.simulate().sealed().range().begin(), 3);
  EXPECT_EQ(result_.simulate().sealed().range().end(), 23);
  EXPECT_EQ(result_.simulate().dataset_sealed_count(), 20);
  coordinator::v1::HeartbeatTaskRequest heartbeat;
  context.FillHeartbeat(&heartbeat);
  EXPECT_EQ(heartbeat.done(), 20);
  EXPECT_EQ(heartbeat.total(), 20);
  // A unit per solver step (3 batches of 4 steps) at least.
  EXPECT_GE(heartbeat.progress(), 12);

  const auto model = model::TextToImageModel::Load(dir_.File("teacher"), {.load_vae = false});
  const auto prompts = common::ParsePromptList(kPrompts);
  ASSERT_OK_AND_ASSIGN(const auto triples, Read(3, 23));
  ASSERT_EQ(triples.size(), 20u);
  const c10::InferenceMode no_gradients;
  double spread = 0;
  for (const auto& triple : triples) {
    const int64_t prompt = dataset::PromptIndexOf(77, triple.index(), 5);
    EXPECT_EQ(triple.prompt_index(), prompt);
    at::Tensor noise = at::empty(
        {1, testing::kTinyLatentChannels, testing::kTinyLatentSide, testing::kTinyLatentSide});
    const std::span z(noise.data_ptr<float>(), static_cast<size_t>(noise.numel()));
    dataset::FillNoise(77, triple.index(), z);
    EXPECT_EQ(triple.noise_checksum(), dataset::NoiseChecksum(z));
    // Alone, not in a batch: what else is in the batch changes float rounding only.
    const at::Tensor expected =
        model.Solve(noise, model.EncodePrompts({prompts->lines[static_cast<size_t>(prompt)]}),
                    model.EncodePrompts({""}), {.steps = 4, .guidance = 2.5});
    std::vector<float> x(static_cast<size_t>(noise.numel()));
    ASSERT_THAT(dataset::DecodeLatent(triple.x(), common::v1::DTYPE_FP32, x), IsOk());
    for (size_t k = 0; k < x.size(); ++k) {
      const float want = expected.data_ptr<float>()[k];
      EXPECT_NEAR(x[k], want, 1e-4 * (1 + std::fabs(want))) << "triple " << triple.index();
      spread = std::max(spread, std::fabs(static_cast<double>(want) - z[k]));
    }
  }
  // The solver did something.
  EXPECT_GT(spread, 0.1);
  EXPECT_EQ(Value("d2g_simulate_triples_total"), 20);
  EXPECT_EQ(Value("d2g_simulate_batches_total"), 3);
  EXPECT_EQ(Value("d2g_simulate_unet_evaluations_total"), 20 * 4 * 2);
  EXPECT_EQ(Value("d2g_simulate_sealed_ranges_total"), 1);
}

TEST_F(SimulateRunnerTest, EverySolverSolves) {
  const auto prompts = common::ParsePromptList(kPrompts);
  uint64_t seed = 100;
  for (const char* kind : {"euler", "dpmpp_2m", "heun"}) {
    recipe().mutable_solver()->set_kind(kind);
    recipe().set_seed(++seed);
    work().set_dataset(std::string("datasets/") + kind);
    ASSERT_THAT(Run(), IsOk());
    ASSERT_OK_AND_ASSIGN(const auto triples, Read(3, 4));
    const auto model = model::TextToImageModel::Load(
        dir_.File("teacher"), {.solver = model::ParseSolverKind(kind), .load_vae = false});
    at::Tensor noise = at::empty(
        {1, testing::kTinyLatentChannels, testing::kTinyLatentSide, testing::kTinyLatentSide});
    dataset::FillNoise(seed, 3, {noise.data_ptr<float>(), static_cast<size_t>(noise.numel())});
    const int64_t prompt = dataset::PromptIndexOf(seed, 3, 5);
    const at::Tensor expected =
        model.Solve(noise, model.EncodePrompts({prompts->lines[static_cast<size_t>(prompt)]}),
                    model.EncodePrompts({""}), {.steps = 4, .guidance = 2.5});
    std::vector<float> x(static_cast<size_t>(noise.numel()));
    ASSERT_THAT(dataset::DecodeLatent(triples[0].x(), common::v1::DTYPE_FP32, x), IsOk());
    for (size_t k = 0; k < x.size(); ++k) {
      const float want = expected.data_ptr<float>()[k];
      EXPECT_NEAR(x[k], want, 1e-4 * (1 + std::fabs(want))) << kind;
    }
  }
}

// The device's side of the writer: what a GPU solves is what a CPU does.
TEST_F(SimulateRunnerTest, SolvesOnAGpu) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no GPU";
  at::globalContext().setAllowTF32CuDNN(false);
  recipe().mutable_solver()->set_steps(20);
  ASSERT_THAT(Run(), IsOk());
  ASSERT_OK_AND_ASSIGN(const auto on_cpu, Read(3, 23));
  work().set_dataset("datasets/gpu");
  work().set_batch_size(4);
  SimulateRunner runner({.device = at::Device(at::kCUDA, 0), .patience = absl::Seconds(60)},
                        &client_, &metrics_);
  lease::TaskContext context;
  ASSERT_THAT(runner.Run(task_, &context, &result_), IsOk());
  ASSERT_OK_AND_ASSIGN(const auto on_gpu, Read(3, 23));
  ASSERT_EQ(on_gpu.size(), on_cpu.size());
  constexpr size_t kElements =
      testing::kTinyLatentChannels * testing::kTinyLatentSide * testing::kTinyLatentSide;
  std::vector<float> a(kElements), b(kElements);
  for (size_t i = 0; i < on_cpu.size(); ++i) {
    ASSERT_THAT(dataset::DecodeLatent(on_cpu[i].x(), common::v1::DTYPE_FP32, a), IsOk());
    ASSERT_THAT(dataset::DecodeLatent(on_gpu[i].x(), common::v1::DTYPE_FP32, b), IsOk());
    for (size_t k = 0; k < kElements; ++k) EXPECT_NEAR(a[k], b[k], 1e-3 * (1 + std::fabs(a[k])));
  }
  // Recording works: after a failure there is no more of it.
  EXPECT_NE(model::MakeCudaGraph(at::kCUDA), nullptr);
}

TEST_F(SimulateRunnerTest, ATeacherTicksWhileItLoads) {
  common::Metrics metrics("test");
  SimulateMetrics simulate(&metrics);
  const std::string path = dir_.File("teacher");
  const std::string digest = recipe().teacher_digest();
  int ticks = 0;
  {
    TeacherCache teachers(at::kCPU, &simulate.teacher_load_seconds);
    ASSERT_THAT(teachers.Get(path, digest, {}, [&] { return ++ticks > 0; }), IsOk());
  }
  // Each of the folder's files, and two networks.
  EXPECT_GE(ticks, 10);
  for (int last = 1; last <= ticks; ++last) {
    int count = 0;
    TeacherCache teachers(at::kCPU, &simulate.teacher_load_seconds);
    EXPECT_THAT(teachers.Get(path, digest, {}, [&] { return ++count < last; }),
                StatusIs(absl::StatusCode::kCancelled, HasSubstr("teacher")));
    EXPECT_EQ(count, last);
  }
}

TEST_F(SimulateRunnerTest, RefusesWhatCannotWorkHereOrAnywhere) {
  const coordinator::v1::Task good = task_;
  constexpr auto kBadInput = absl::StatusCode::kInvalidArgument;

  recipe().set_teacher_digest("xxh3-128:00000000000000000000000000000000");
  // Another machine may have the right teacher.
  constexpr auto kNotHere = absl::StatusCode::kFailedPrecondition;
  EXPECT_THAT(Run(), StatusIs(kNotHere, AllOf(HasSubstr(dir_.File("teacher")),
                                              HasSubstr("xxh3-128:00000000"))));
  task_ = good;
  work().set_teacher_path(dir_.File("nowhere"));
  EXPECT_THAT(Run(), StatusIs(kNotHere, HasSubstr("nowhere")));
  task_ = good;
  recipe().mutable_solver()->set_compute_dtype(common::v1::DTYPE_FP16);
  EXPECT_THAT(Run(), StatusIs(kNotHere, AllOf(HasSubstr("Half needs a GPU"), HasSubstr("cpu"))));
  task_ = good;
  recipe().mutable_solver()->set_kind("unipc");
  EXPECT_THAT(Run(), StatusIs(kBadInput, HasSubstr("unipc")));
  task_ = good;
  recipe().mutable_solver()->set_steps(1001);
  EXPECT_THAT(Run(), StatusIs(kBadInput, HasSubstr("1001")));
  task_ = good;
  recipe().mutable_solver()->set_timestep_spacing("random");
  EXPECT_THAT(Run(), StatusIs(kBadInput, HasSubstr("random")));
  task_ = good;
  recipe().set_latent_height(9);
  EXPECT_THAT(Run(), StatusIs(kBadInput, HasSubstr("4x9x4")));
  task_ = good;
  recipe().set_prompts_digest("xxh3-128:11111111111111111111111111111111");
  EXPECT_THAT(Run(), StatusIs(kBadInput, HasSubstr("xxh3-128:11111111")));
  task_ = good;
  recipe().set_prompt_count(6);
  EXPECT_THAT(Run(), StatusIs(kBadInput, HasSubstr("has 5 lines, the dataset says 6")));
  task_ = good;
  work().set_batch_size(kMaxBatchSize + 1);
  EXPECT_THAT(Run(), StatusIs(kBadInput, HasSubstr("batch_size: 4097")));
}

TEST_F(SimulateRunnerTest, NamesALatentThatIsNotFinite) {
  const std::string weights = dir_.File("teacher") + "/unet/diffusion_pytorch_model.safetensors";
  auto tensors = model::ReadSafetensors(weights);
  tensors["conv_out.bias"] = at::full_like(tensors.at("conv_out.bias"), 1e6);
  model::WriteSafetensors(weights, tensors);
  recipe().set_teacher_digest(model::InspectModelFolder(dir_.File("teacher"))->digest);
  recipe().set_storage_dtype(common::v1::DTYPE_FP16);
  // In the first of ten batches.
  constexpr int kSteps = 500;
  recipe().mutable_solver()->set_steps(kSteps);
  work().set_batch_size(2);
  const absl::Status status = Run();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument,
                               AllOf(HasSubstr("the latent of triple 3 "), HasSubstr("FP16"))));
  // The next batch is not solved to its end in vain.
  EXPECT_LT(Value("d2g_simulate_unet_evaluations_total"), 2 * (2 * 2 * kSteps));
}

TEST_F(SimulateRunnerTest, ABatchThatDoesNotFitIsMadeSmaller) {
  c10::Allocator* const real = c10::GetCPUAllocator();
  LimitedAllocator limited(real);
  c10::SetCPUAllocator(&limited, /*priority=*/1);
  {
    SimulateRunner runner({.patience = absl::Seconds(60)}, &client_, &metrics_);
    const auto run = [&](int64_t begin, int64_t end) {
      work().mutable_range()->set_begin(begin);
      work().mutable_range()->set_end(end);
      lease::TaskContext context;
      result_.Clear();
      return runner.Run(task_, &context, &result_);
    };
    EXPECT_THAT(run(0, 8), IsOk());  // loads the teacher
    limited.TakeLargest();
    EXPECT_THAT(run(8, 16), IsOk());
    limited.Limit(limited.TakeLargest() - 1);
    EXPECT_THAT(run(16, 32), IsOk());
    EXPECT_EQ(Value("d2g_simulate_memory_retries_total"), 1);
    EXPECT_EQ(Value("d2g_simulate_batch_size"), 4);
    EXPECT_THAT(Read(0, 32), IsOk());

    // Not even one: the task fails, naming the lack.
    limited.Limit(0);
    recipe().set_seed(78);
    work().set_dataset("datasets/e");
    EXPECT_THAT(run(0, 8),
                StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("can't allocate memory")));
    limited.Limit(std::numeric_limits<size_t>::max());
  }
  c10::SetCPUAllocator(real, /*priority=*/1);
}

}  // namespace
}  // namespace d2g::simulate
