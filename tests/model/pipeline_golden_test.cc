// Whole folders against StableDiffusionPipeline.
#include "model/files/json_config.h"
#include "model/text_to_image.h"
#include "model/tool/run_options.h"
#include "tests/model/golden.h"

namespace d2g::model {
namespace {

TEST(PipelineGoldenTest, AgreesWithStableDiffusionPipeline) {
  for (const std::string& name : GoldenCases("pipeline")) {
    SCOPED_TRACE(name);
    const TensorMap golden = Golden(name);
    const TextToImageModel model = TextToImageModel::Load(GoldenFolder(name));
    const auto prompts =
        ReadJsonFile(GoldenFolder(name) + "/prompts.json").get<std::vector<std::string>>();
    const at::Tensor cond = model.EncodePrompts(prompts);
    EXPECT_LE(RelativeDifference(cond, golden.at("embeddings")), 1e-4);

    SolverOptions options;
    options.steps = golden.at("steps").item<int64_t>();
    options.guidance = golden.at("guidance").item<double>();
    const at::Tensor uncond = options.guidance > 1 ? model.EncodePrompts({""}) : at::Tensor();
    int64_t calls = 0;
    const at::Tensor latents =
        model.Solve(golden.at("noise"), cond, uncond, options, [&](int64_t done, int64_t steps) {
          EXPECT_EQ(done, ++calls);
          EXPECT_EQ(steps, options.steps);
        });
    EXPECT_EQ(calls, options.steps);
    EXPECT_LE(RelativeDifference(latents, golden.at("latents")), 1e-3);

    const at::Tensor pictures = TextToImageModel::ToBytes(model.DecodeToImages(latents));
    ASSERT_EQ(pictures.sizes(), golden.at("pictures").sizes());
    const at::Tensor difference =
        (pictures.to(at::kInt) - golden.at("pictures").to(at::kInt)).abs().max();
    EXPECT_LE(difference.item<int>(), 1);
  }
}

// The same for the teacher that is shipped, with its picture encoder.
TEST(PipelineGoldenTest, AgreesOnTheDemoTeacher) {
  const TensorMap golden = Golden("demo_teacher");
  const char* source = std::getenv("D2G_SOURCE_DIR");
  ASSERT_NE(source, nullptr);
  const TextToImageModel model = TextToImageModel::Load(std::string(source) + "/demo/teacher");
  const auto prompts =
      ReadJsonFile(GoldenFolder("demo_teacher") + "/prompts.json").get<std::vector<std::string>>();
  const at::Tensor cond = model.EncodePrompts(prompts);
  EXPECT_LE(RelativeDifference(cond, golden.at("embeddings")), 1e-4);
  const at::Tensor latents =
      model.Solve(golden.at("noise"), cond, model.EncodePrompts({""}), SolverOptions{});
  EXPECT_LE(RelativeDifference(latents, golden.at("latents")), 1e-3);
  const at::Tensor difference =
      TextToImageModel::ToBytes(model.DecodeToImages(latents)).to(at::kInt) -
      golden.at("pictures").to(at::kInt);
  EXPECT_LE(difference.abs().max().item<int>(), 1);
  const LatentDistribution encoded = model.vae().Encode(golden.at("decoded"));
  EXPECT_LE(RelativeDifference(encoded.mean, golden.at("mean")), 1e-4);
  EXPECT_LE(RelativeDifference(encoded.logvar, golden.at("logvar")), 1e-4);
}

// A student evaluated directly, without the scheduler's step, is what the pipeline computes.
TEST(PipelineGoldenTest, OneStepIsTheStudentsPipeline) {
  const struct {
    const char* name;
    int64_t t0;
    Parametrization parametrization;
  } kStudents[] = {{"pipeline/student_999_v_prediction", 999, Parametrization::kVPrediction},
                   {"pipeline/student_399_epsilon", 399, Parametrization::kEpsilon},
                   {"pipeline/student_399_sample", 399, Parametrization::kSample}};
  for (const auto& student : kStudents) {
    SCOPED_TRACE(student.name);
    const TensorMap golden = Golden(student.name);
    const TextToImageModel model = TextToImageModel::Load(GoldenFolder(student.name));
    EXPECT_TRUE(IsStudent(GoldenFolder(student.name), model.scheduler()));
    const auto prompts =
        ReadJsonFile(GoldenFolder(student.name) + "/prompts.json").get<std::vector<std::string>>();
    const at::Tensor x = model.OneStep(golden.at("noise"), model.EncodePrompts(prompts), student.t0,
                                       student.parametrization);
    EXPECT_LE(RelativeDifference(x, golden.at("latents")), 1e-5);
  }
  const TextToImageModel teacher = TextToImageModel::Load(GoldenFolder("pipeline/teacher"));
  EXPECT_FALSE(IsStudent(GoldenFolder("pipeline/teacher"), teacher.scheduler()));
}

// Results do not depend on who shares the batch, beyond float error.
TEST(PipelineGoldenTest, BatchMembersAreIndependent) {
  const TensorMap golden = Golden("pipeline/teacher");
  const TextToImageModel model = TextToImageModel::Load(GoldenFolder("pipeline/teacher"));
  const at::Tensor cond = model.EncodePrompts({"a bag", "two", "a bag"});
  EXPECT_TRUE(at::equal(cond[0], cond[2]));
  const at::Tensor uncond = model.EncodePrompts({""});
  SolverOptions options;
  options.steps = 4;
  const at::Tensor together = model.Solve(golden.at("noise"), cond, uncond, options);
  const at::Tensor alone =
      model.Solve(golden.at("noise").narrow(0, 1, 1), cond.narrow(0, 1, 1), uncond, options);
  EXPECT_LE(RelativeDifference(together.narrow(0, 1, 1), alone), 1e-4);
}

TEST(PipelineGoldenTest, BadShapesAreNamed) {
  const TextToImageModel model = TextToImageModel::Load(GoldenFolder("pipeline/teacher"));
  const at::Tensor cond = model.EncodePrompts({"a bag"});
  EXPECT_THROW(model.Solve(at::zeros({1, 3, 8, 8}), cond, cond, {}), Error);
  EXPECT_THROW(model.Solve(at::zeros({1, 4, 0, 8}), cond, cond, {}), Error);
  EXPECT_THROW(model.Solve(at::zeros({2, 4, 8, 8}), cond, cond, {}), Error);
  EXPECT_THROW(model.Solve(at::zeros({1, 4, 8, 8}), cond, {}, {}), Error);
  SolverOptions options;
  options.steps = 1001;
  EXPECT_THROW(model.Solve(at::zeros({1, 4, 8, 8}), cond, cond, options), Error);
  options.steps = 5;
  options.spacing = "sideways";
  EXPECT_THROW(model.Solve(at::zeros({1, 4, 8, 8}), cond, cond, options), Error);
}

}  // namespace
}  // namespace d2g::model
