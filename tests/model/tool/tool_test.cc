// The real d2g-model program: pictures against diffusers, and what bad input gives.
#include <gmock/gmock.h>
#include <png.h>
#include <sys/stat.h>

#include <algorithm>

#include "model/files/json_config.h"
#include "model/png.h"
#include "tests/model/golden.h"
#include "tests/model/run_tool.h"
#include "tests/model/temp_folder.h"

namespace d2g::model {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

at::Tensor ReadGrey(const std::string& path) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  EXPECT_NE(png_image_begin_read_from_file(&image, path.c_str()), 0) << image.message;
  image.format = PNG_FORMAT_GRAY;
  at::Tensor pixels = at::zeros({image.height, image.width, 1}, at::kByte);
  EXPECT_NE(png_image_finish_read(&image, nullptr, pixels.data_ptr(), 0, nullptr), 0);
  return pixels;
}

// Names in a folder, sorted.
std::vector<std::string> Names(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::string> Generate(const std::string& model, const std::string& out,
                                  std::vector<std::string> more = {}) {
  std::vector<std::string> arguments = {"generate", "--model",   model, "--out",
                                        out,        "--threads", "1"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

TEST(ToolTest, GridIsWhatThePipelineDraws) {
  const TempFolder folder;
  for (const std::string& name : GoldenCases("pipeline")) {
    SCOPED_TRACE(name);
    const TensorMap golden = Golden(name);
    std::vector<std::string> arguments = {
        "--columns", "2", "--gap", "1", "--noise", GoldenFolder(name) + "/golden.safetensors"};
    for (const auto& prompt : ReadJsonFile(GoldenFolder(name) + "/prompts.json")) {
      arguments.push_back("--prompt");
      arguments.push_back(prompt.get<std::string>());
    }
    // A student's one step without guidance and a teacher's 50 with 3 are the defaults.
    if (name.find("overruled") != std::string::npos) {
      for (const char* more : {"--steps", "10", "--guidance", "7.5"}) arguments.push_back(more);
    }
    const Ended ended = RunTool(Generate(GoldenFolder(name), folder / "grid.png", arguments));
    ASSERT_EQ(ended.code, 0) << ended.output;
    const at::Tensor grid = ReadGrey(folder / "grid.png").to(at::kInt);
    const at::Tensor expected = MakeGrid(golden.at("pictures"), 2, 1).to(at::kInt);
    ASSERT_EQ(grid.sizes(), expected.sizes());
    EXPECT_LE((grid - expected).abs().max().item<int>(), 2);
  }
}

TEST(ToolTest, ASinglePictureHasNoFrame) {
  const TempFolder folder;
  const std::string model = GoldenFolder("pipeline/student_399_sample");
  const Ended ended = RunTool(Generate(model, folder / "one.png", {"--prompt", "a bag"}));
  ASSERT_EQ(ended.code, 0) << ended.output;
  const at::Tensor picture = ReadGrey(folder / "one.png");
  const std::string size =
      " of " + std::to_string(picture.size(1)) + "x" + std::to_string(picture.size(0)) + ",";
  EXPECT_THAT(ended.output, HasSubstr("1 picture" + size));
}

TEST(ToolTest, SeedAndSavedNoiseGiveTheSamePicture) {
  const TempFolder folder;
  const std::string model = GoldenFolder("pipeline/student_399_sample");
  auto run = [&](const std::string& out, std::vector<std::string> more) {
    more.insert(more.end(), {"--prompt", "a bag", "--count", "3"});
    const Ended ended = RunTool(Generate(model, folder / out, more));
    EXPECT_EQ(ended.code, 0) << ended.output;
    return ReadFileToString(folder / out);
  };
  const std::string first = run("a.png", {"--seed", "5", "--save-noise", folder / "n"});
  EXPECT_EQ(run("b.png", {"--seed", "5"}), first);
  EXPECT_EQ(run("c.png", {"--noise", folder / "n"}), first);
  EXPECT_NE(run("d.png", {"--seed", "6"}), first);
  const at::Tensor noise = ReadSafetensors(folder / "n").at("noise");
  EXPECT_EQ(noise.sizes(), at::IntArrayRef({3, 4, 8, 8}));
}

// Pictures no larger than a tile are the same, larger ones are blended.
TEST(ToolTest, TilesChangeOnlyPicturesThatAreLarger) {
  const TempFolder folder;
  const std::string model = GoldenFolder("pipeline/teacher");
  for (const int64_t side : {8, 20}) {
    WriteSafetensors(folder / "noise", {{"noise", at::randn({1, 4, side, side})}});
    std::vector<std::string> more = {"--prompt", "a bag",   "--steps",
                                     "1",        "--noise", folder / "noise"};
    ASSERT_EQ(RunTool(Generate(model, folder / "whole.png", more)).code, 0);
    more.push_back("--tile");
    ASSERT_EQ(RunTool(Generate(model, folder / "tiled.png", more)).code, 0);
    const at::Tensor whole = ReadGrey(folder / "whole.png"), tiled = ReadGrey(folder / "tiled.png");
    ASSERT_EQ(whole.sizes(), tiled.sizes());
    EXPECT_EQ(at::equal(whole, tiled), side == 8);
  }
}

TEST(ToolTest, AnEmptyValueIsAValue) {
  const TempFolder folder;
  ASSERT_EQ(RunTool({"component", "--model", GoldenFolder("pipeline/teacher"), "--component",
                     "tokenizer", "--text=", "--text=cat", "--outputs", folder / "ids"})
                .code,
            0);
  EXPECT_EQ(ReadSafetensors(folder / "ids").at("input_ids").size(0), 2);
}

TEST(ToolTest, OnlyRegularFilesAreReplaced) {
  const TempFolder folder;
  const std::string pipe = folder / "pipe", link = folder / "link";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  folder.Write("target", "old");
  std::filesystem::create_symlink("target", link);
  const auto run = [&](const std::string& out) {
    return RunTool({"component", "--model", GoldenFolder("pipeline/teacher"), "--component",
                    "tokenizer", "--text", "x", "--outputs", out});
  };
  const Ended refused = run(pipe);
  EXPECT_EQ(refused.code, 3);
  EXPECT_THAT(refused.output, HasSubstr(pipe + ": is not a regular file"));
  EXPECT_TRUE(std::filesystem::is_fifo(pipe));
  ASSERT_EQ(run(link).code, 0);
  EXPECT_TRUE(std::filesystem::is_symlink(link));
  EXPECT_EQ(ReadSafetensors(folder / "target").count("input_ids"), 1u);
}

TEST(ToolTest, TextsAreTakenAsTheyAre) {
  const TempFolder folder;
  std::filesystem::copy(GoldenFolder("pipeline/teacher") + "/tokenizer", folder / "tokenizer_2");
  const Ended ended = RunTool({"component", "--model", folder.path(), "--component", "tokenizer_2",
                               "--text", "[a, b]", "--text", "", "--text", "{}", "--text", "-x",
                               "--outputs", folder / "ids"});
  EXPECT_EQ(ended.code, 0) << ended.output;
  const at::Tensor ids = ReadSafetensors(folder / "ids").at("input_ids");
  ASSERT_EQ(ids.size(0), 4);
  EXPECT_EQ(ids[1][1].item<int64_t>(), ids[1][2].item<int64_t>());  // end, padding
  for (int64_t i : {0, 2, 3}) EXPECT_FALSE(at::equal(ids[i], ids[1])) << i;
}

TEST(ToolTest, ComponentsRunAlone) {
  const TempFolder folder;
  const TensorMap golden = Golden("pipeline/teacher");
  const std::string model = GoldenFolder("pipeline/teacher");
  ASSERT_EQ(RunTool({"component", "--model", model, "--component", "tokenizer", "--text",
                     "a photo of a dark slim t-shirt", "--outputs", folder / "ids"})
                .code,
            0);
  ASSERT_EQ(RunTool({"component", "--model", model, "--component", "text_encoder", "--inputs",
                     folder / "ids", "--outputs", folder / "hidden"})
                .code,
            0);
  const TensorMap hidden = ReadSafetensors(folder / "hidden");
  EXPECT_LE(RelativeDifference(hidden.at("last_hidden_state")[0], golden.at("embeddings")[0]),
            1e-4);
  EXPECT_EQ(hidden.at("penultimate_hidden_state").sizes(), hidden.at("last_hidden_state").sizes());
  EXPECT_EQ(hidden.at("pooled_output").sizes(), at::IntArrayRef({1, 96}));
  EXPECT_FALSE(hidden.contains("text_embeds"));
  EXPECT_THAT(RunTool({"component", "--model", model, "--component", "unet", "--inputs",
                       folder / "ids", "--outputs", folder / "x"})
                  .output,
              HasSubstr("has no tensor \"sample\""));
  const Ended teacher = RunTool({"teacher", "--model", model, "--prompt", "a bag", "--seed", "1",
                                 "--steps", "2", "--guidance", "2", "--out", folder / "latents"});
  EXPECT_EQ(teacher.code, 0) << teacher.output;
  EXPECT_EQ(ReadSafetensors(folder / "latents").at("latents").sizes(),
            at::IntArrayRef({1, 4, 8, 8}));
}

TEST(ToolTest, TeacherRunsEverySolver) {
  const TempFolder folder;
  const std::string noise = folder / "noise";
  WriteSafetensors(noise, {{"noise", Golden("pipeline/teacher").at("noise").narrow(0, 0, 2)}});
  const auto teach = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments = {"teacher",    "--model", GoldenFolder("pipeline/teacher"),
                                          "--prompt",   "a bag",   "--noise",
                                          noise,        "--steps", "3",
                                          "--guidance", "2",       "--out",
                                          folder / "x"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Ended ended = RunTool(arguments);
    EXPECT_EQ(ended.code, 0) << ended.output;
    return ReadSafetensors(folder / "x").at("latents");
  };
  const at::Tensor ddim = teach({});
  EXPECT_EQ(ddim.sizes(), at::IntArrayRef({2, 4, 8, 8}));
  EXPECT_TRUE(at::equal(teach({"--scheduler", "ddim"}), ddim));
  EXPECT_TRUE(at::equal(teach({"--negative-prompt", ""}), ddim));
  for (const std::vector<std::string>& more :
       std::vector<std::vector<std::string>>{{"--scheduler", "euler"},
                                             {"--scheduler", "dpmpp_2m"},
                                             {"--scheduler", "heun"},
                                             {"--negative-prompt", "a shoe"},
                                             {"--guidance-rescale", "0.7"}}) {
    const double difference = RelativeDifference(teach(more), ddim);
    EXPECT_TRUE(difference > 1e-3 && difference < 10) << more[1] << " " << difference;
  }
  for (const std::string dtype : {"bf16", "fp16"}) {
    const double difference = RelativeDifference(teach({"--dtype", dtype}), ddim);
    EXPECT_TRUE(difference > 1e-5 && difference < 0.1) << dtype << " " << difference;
  }
  teach({"--png", folder / "x.png"});
  EXPECT_EQ(ReadGrey(folder / "x.png").sizes(), at::IntArrayRef({32, 66, 1}));
}

// Weights in half precision, run in fp32: the program keeps them in one form only.
TEST(ToolTest, TeacherRunsStoredHalfPrecisionInFp32) {
  const TempFolder folder;
  const TensorMap golden = Golden("demo_teacher");
  WriteSafetensors(folder / "noise", {{"noise", golden.at("noise")}});
  std::vector<std::string> arguments = {
      "teacher",   "--model",        std::string(std::getenv("D2G_SOURCE_DIR")) + "/demo/teacher",
      "--noise",   folder / "noise", "--out",
      folder / "x"};
  for (const auto& prompt : ReadJsonFile(GoldenFolder("demo_teacher") + "/prompts.json")) {
    arguments.insert(arguments.end(), {"--prompt", prompt.get<std::string>()});
  }
  const Ended ended = RunTool(arguments);
  ASSERT_EQ(ended.code, 0) << ended.output;
  EXPECT_LE(RelativeDifference(ReadSafetensors(folder / "x").at("latents"), golden.at("latents")),
            1e-3);
}

// Options that only another solver has do not stop the one that is run.
TEST(ToolTest, TeacherReadsTheFileForItsSolver) {
  const TempFolder folder;
  std::filesystem::copy(GoldenFolder("pipeline/teacher"), folder / "model",
                        std::filesystem::copy_options::recursive);
  folder.Write("model/scheduler/scheduler_config.json", R"({"beta_schedule":"exp"})");
  const auto teach = [&](const std::string& scheduler) {
    return RunTool({"teacher", "--model", folder / "model", "--prompt", "x", "--steps", "1",
                    "--scheduler", scheduler, "--out", folder / "x"});
  };
  EXPECT_EQ(teach("heun").code, 0);
  const Ended ended = teach("euler");
  EXPECT_EQ(ended.code, 3);
  EXPECT_THAT(ended.output, AllOf(HasSubstr("scheduler_config.json"), HasSubstr("beta_schedule")));
}

TEST(ToolTest, ARunThatCanOnlyGiveNanIsRefusedWithItsCause) {
  const TempFolder folder;
  std::filesystem::copy(GoldenFolder("pipeline/teacher"), folder / "model",
                        std::filesystem::copy_options::recursive);
  folder.Write("model/scheduler/scheduler_config.json",
               R"({"rescale_betas_zero_snr":true,"timestep_spacing":"trailing",
                   "clip_sample":false})");
  const std::vector<std::vector<std::string>> kCommands = {
      {"teacher", "--model", folder / "model", "--prompt", "x", "--steps", "2", "--out",
       folder / "x"},
      {"check", folder / "model", "--steps", "2", "--png", folder / "x.png"}};
  for (const auto& command : kCommands) {
    const Ended ended = RunTool(command);
    EXPECT_EQ(ended.code, 3);
    EXPECT_THAT(ended.output, HasSubstr("rescale_betas_zero_snr"));
    EXPECT_FALSE(std::filesystem::exists(folder / "x"));
    EXPECT_FALSE(std::filesystem::exists(folder / "x.png"));
  }
}

TEST(ToolTest, LatentsThatAreNotFiniteAreRefused) {
  const TempFolder folder;
  std::filesystem::copy(GoldenFolder("pipeline/teacher"), folder / "model",
                        std::filesystem::copy_options::recursive);
  const std::string weights = folder / "model/unet/diffusion_pytorch_model.safetensors";
  TensorMap tensors = ReadSafetensors(weights);
  tensors["conv_out.bias"] = tensors.at("conv_out.bias") / 0.0;
  WriteSafetensors(weights, tensors);
  const Ended ended = RunTool({"teacher", "--model", folder / "model", "--prompt", "x", "--steps",
                               "2", "--out", folder / "x"});
  EXPECT_EQ(ended.code, 3);
  EXPECT_THAT(ended.output, HasSubstr("not finite"));
  EXPECT_FALSE(std::filesystem::exists(folder / "x"));
}

TEST(ToolTest, BadInputIsNamedAndNothingIsLeft) {
  const TempFolder folder;
  const std::string model = GoldenFolder("pipeline/teacher");
  const std::string noise = folder / "noise";
  WriteSafetensors(noise, {{"noise", at::zeros({2, 4, 8, 8})}});
  WriteSafetensors(folder / "other", {{"z", at::zeros({2, 4, 8, 8})}});

  const std::string cut = folder / "cut";
  std::filesystem::copy(model, cut, std::filesystem::copy_options::recursive);
  const std::string weights = cut + "/unet/diffusion_pytorch_model.safetensors";
  const auto size = std::filesystem::file_size(weights);
  std::filesystem::resize_file(weights, size / 2);
  // Where each case may write, and none may leave anything.
  const std::string outputs = folder / "outputs";
  std::filesystem::create_directories(outputs + "/folder");
  const std::string out = outputs + "/x.png";
  const std::string noise_out = outputs + "/noise", latents_out = outputs + "/latents";

  const struct {
    std::vector<std::string> arguments;
    int code;
    std::vector<std::string> messages;
  } kCases[] = {
      {Generate("/none", out, {"--prompt", "x"}), 3, {"/none/model_index.json"}},
      {Generate(cut, out, {"--prompt", "x"}),
       3,
       {weights, std::to_string(size), std::to_string(size / 2)}},
      {Generate(model, out), 2, {"--prompt is required"}},
      {Generate(model, out, {"--prompt", "x", "--steps", "0"}),
       2,
       {"--steps: 0 is not a whole number from 1 to 1000000"}},
      {Generate(model, out, {"--prompt", "x", "--steps", "1.5"}),
       2,
       {"--steps: 1.5 is not a whole number"}},
      {Generate(model, out, {"--prompt", "x", "--seed", "-1"}),
       2,
       {"--seed: -1 is not a whole number from 0 to 18446744073709551615"}},
      {Generate(model, out, {"--prompt", "x", "--steps", "1001"}), 3, {"steps is 1001", "1000"}},
      {Generate(model, out, {"--prompt", "x", "--count", "-1"}), 2, {"--count"}},
      {Generate(model, out, {"--prompt", "\xff"}), 3, {"UTF-8", "byte 0"}},
      {Generate(model, out, {"--prompt", "x", "--noise", folder / "other"}), 3, {"\"noise\""}},
      {Generate(model, out, {"--prompt", "x", "--prompt", "y", "--prompt", "z", "--noise", noise}),
       3,
       {"2 noises for 3 prompts"}},
      {Generate(model, out, {"--prompt", "x", "--scheduler", "plms"}), 2, {"--scheduler"}},
      {Generate(model, out, {"--prompt", "x", "--guidance", "nan"}), 2, {"--guidance", "nan"}},
      {Generate(model, out, {"--prompt", "x", "--seed", "-1"}), 2, {"--seed"}},
      {Generate(model, out, {"--prompt", "x", "--guidance-rescale", "2"}),
       2,
       {"--guidance-rescale"}},
      {Generate(model, out, {"--prompt", "x", "--device", "toaster"}), 3, {"toaster"}},
      {Generate(model, outputs + "/no/x.png",
                {"--prompt", "x", "--steps", "1", "--save-noise", noise_out, "--save-latents",
                 latents_out}),
       3,
       {"--out: ", "no/x.png", "No such file"}},
      {Generate(model, outputs + "/folder", {"--prompt", "x", "--save-noise", noise_out}),
       3,
       {"--out: ", outputs + "/folder: is a folder"}},
      {Generate(model, "", {"--prompt", "x", "--save-noise", noise_out}), 3, {"--out is empty"}},
      {Generate(model, outputs + "/x.jpg", {"--prompt", "x", "--save-noise", noise_out}),
       3,
       {"--out: ", "x.jpg: pictures are written as PNG"}},
      {Generate(model, out, {"--prompt", "x", "--save-latents", outputs + "/no/latents"}),
       3,
       {"--save-latents: ", "no/latents"}},
      {Generate(model, out, {"--prompt", "x", "--save-noise", outputs + "/folder/../x.png"}),
       3,
       {"--save-noise: ", "is what --out writes"}},
      {{"teacher", "--model", model, "--prompt", "x", "--save-noise", noise_out, "--out",
        outputs + "/no/latents"},
       3,
       {"--out: ", "no/latents"}},
      {{"component", "--model", model, "--component", "tokenizer", "--text", "x", "--outputs",
        outputs + "/no/ids"},
       3,
       {"--outputs: ", "no/ids"}},
      // Found by the work itself, after the outputs were looked at.
      {Generate(model, out,
                {"--prompt", "x", "--steps", "1001", "--save-noise", noise_out, "--save-latents",
                 latents_out}),
       3,
       {"steps is 1001"}},
      {{"generate", "--bogus"}, 2, {""}},
      {{}, 2, {"subcommand"}},
  };
  for (const auto& item : kCases) {
    const Ended ended = RunTool(item.arguments);
    EXPECT_EQ(ended.code, item.code) << ended.output;
    for (const std::string& message : item.messages) EXPECT_THAT(ended.output, HasSubstr(message));
    EXPECT_THAT(ended.output, AllOf(Not(HasSubstr("Exception raised")), Not(HasSubstr("frame #"))));
    EXPECT_THAT(Names(outputs), ElementsAre("folder"));
    EXPECT_THAT(Names(outputs + "/folder"), IsEmpty());
  }
}

TEST(ToolTest, LineageThatDoesNotFitIsRefused) {
  const TempFolder folder;
  const std::string student = folder / "student";
  std::filesystem::copy(GoldenFolder("pipeline/student_399_sample"), student,
                        std::filesystem::copy_options::recursive);
  folder.Write("student/d2g.json", R"({"t0":999})");
  const Ended ended = RunTool(Generate(student, folder / "x.png", {"--prompt", "x"}));
  EXPECT_EQ(ended.code, 3);
  EXPECT_THAT(ended.output, AllOf(HasSubstr("d2g.json"), HasSubstr("399")));
}

}  // namespace
}  // namespace d2g::model
