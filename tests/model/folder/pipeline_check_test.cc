// What keeps a model folder from being run, told before any job is: each case is refused with the
// sentence that d2g model inspect prints.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "model/check/model_summary.h"
#include "model/folder/model_folder.h"
#include "tests/testing/process.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_folder.h"

namespace d2g::model {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using testing::EditJson;
using testing::EditTensors;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::IsOk;
using testing::StatusIs;
using testing::TinyTensors;

constexpr char kUNet[] = "unet/diffusion_pytorch_model.safetensors";
constexpr char kText[] = "text_encoder/model.safetensors";

class PipelineCheckTest : public ::testing::Test {
 protected:
  PipelineCheckTest() { testing::WriteTinyFolder(model()); }

  std::string model() const { return dir_.File("model"); }
  std::string File(const std::string& name) const { return model() + "/" + name; }

  void Set(const std::string& file, const std::string& key, const json& value) {
    EditJson(File(file), [&](json& content) { content[key] = value; });
  }
  void Edit(const std::string& file, const std::function<void(TinyTensors&)>& change) {
    EditTensors(File(file), change);
  }

  std::vector<std::string> Notes(const std::string& component) const {
    for (const model::ComponentSummary& one : model::SummariseModel(model()).components) {
      if (one.name == component) return one.notes;
    }
    return {"there is no " + component};
  }

  testing::TempDir dir_;
};

TEST_F(PipelineCheckTest, AWholeFolderIsTaken) {
  EXPECT_THAT(CheckPipeline(model()), IsOk());
  EXPECT_THAT(CheckPipeline(testing::SourcePath("demo/teacher")), IsOk());
  EXPECT_THAT(Notes("unet"), IsEmpty());
}

TEST_F(PipelineCheckTest, WhatCannotRunIsRefusedWithInspectsSentence) {
  const struct {
    const char* what;
    std::function<void()> spoil;
    std::string part;
  } kCases[] = {
      {"a pipeline of latent consistency",
       [&] { Set("model_index.json", "_class_name", "LatentConsistencyModelPipeline"); },
       "LatentConsistencyModelPipeline"},
      {"a pipeline that paints in",
       [&] { Set("model_index.json", "_class_name", "StableDiffusionInpaintPipeline"); },
       "StableDiffusionInpaintPipeline"},
      {"another text encoder",
       [&] {
         Set("model_index.json", "text_encoder", {"transformers", "T5EncoderModel"});
       },
       "T5EncoderModel is not supported"},
      {"9 input channels",
       [&] {
         Set("unet/config.json", "in_channels", 9);
         Edit(kUNet, [](TinyTensors& t) { t["conv_in.weight"].shape = {8, 9, 3, 3}; });
       },
       "\"out_channels\" is 4, not in_channels = 9"},
      {"a config for another network", [&] { Set("unet/config.json", "layers_per_block", 2); },
       "missing (down_blocks.0.resnets.1.conv1.bias"},
      {"an option that is not supported",
       [&] { Set("unet/config.json", "dual_cross_attention", true); }, "dual_cross_attention"},
      {"a missing tensor", [&] { Edit(kUNet, [](TinyTensors& t) { t.erase("conv_out.bias"); }); },
       "1 missing (conv_out.bias)"},
      {"a LoRA inside the network",
       [&] {
         Edit(kUNet, [](TinyTensors& t) {
           t["mid_block.attentions.0.to_q_lora.down.weight"] = {{4, 16}};
         });
       },
       "1 unexpected (mid_block.attentions.0.to_q_lora.down.weight)"},
      {"a tensor of another shape",
       [&] {
         Edit(kText, [](TinyTensors& t) { t["text_model.final_layer_norm.bias"].shape = {17}; });
       },
       "text_model.final_layer_norm.bias is [17], not [16]"},
      {"whole numbers for weights",
       [&] {
         Edit(kUNet,
              [](TinyTensors& t) { t["conv_out.bias"].dtype = model::SafetensorsDtype::kI64; });
       },
       "conv_out.bias is I64, not floating point"},
      {"a scheduler of EDM",
       [&] { Set("scheduler/scheduler_config.json", "_class_name", "EDMEulerScheduler"); },
       "EDMEulerScheduler"},
      {"betas of another kind",
       [&] { Set("scheduler/scheduler_config.json", "beta_schedule", "sigmoid"); },
       "beta_schedule"},
      {"a tokenizer without merges", [&] { std::filesystem::remove(File("tokenizer/merges.txt")); },
       "merges.txt"},
      {"a damaged vocabulary",
       [&] { testing::WriteText(File("tokenizer/vocab.json"), R"({"a": -1})"); },
       "vocab.json: id of \"a\" is -1"},
      {"texts longer than the encoder's positions",
       [&] { Set("tokenizer/tokenizer_config.json", "model_max_length", 9); },
       "model_max_length 9"},
      {"a vae of other latents", [&] { Set("vae/config.json", "latent_channels", 8); },
       "vae: parameters do not fit the config"},
      {"no unet in the index", [&] { Set("model_index.json", "unet", nullptr); }, "\"unet\""},
  };
  for (const auto& one : kCases) {
    SCOPED_TRACE(one.what);
    testing::WriteTinyFolder(model());
    one.spoil();
    const model::ModelSummary inspected = model::SummariseModel(model());
    EXPECT_FALSE(inspected.usable());
    EXPECT_THAT(
        CheckPipeline(model()),
        StatusIs(absl::StatusCode::kInvalidArgument,
                 AllOf(HasSubstr(one.part), HasSubstr(inspected.Troubles().substr(0, 1000)))));
  }
  EXPECT_THAT(CheckPipeline(dir_.File("nowhere")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("is not a folder")));
}

TEST_F(PipelineCheckTest, EncoderLayersBeyondTheConfigsAreLeftOut) {
  Edit(kText, [](TinyTensors& tensors) {
    const TinyTensors before = tensors;
    for (const auto& [name, tensor] : before) {
      const size_t at = name.find(".layers.0.");
      if (at == std::string::npos) continue;
      std::string next = name;
      tensors[next.replace(at, 10, ".layers.1.")] = tensor;
    }
  });
  EXPECT_THAT(CheckPipeline(model()), IsOk());
  EXPECT_THAT(Notes("text_encoder"),
              ElementsAre(AllOf(HasSubstr("16 tensors of layers beyond num_hidden_layers = 1"),
                                HasSubstr("text_model.encoder.layers.1."))));
  Edit(kText, [](TinyTensors& tensors) { tensors["text_model.encoder.extra"] = {{2}}; });
  EXPECT_THAT(CheckPipeline(model()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("1 unexpected (text_model.encoder.extra)")));
}

TEST_F(PipelineCheckTest, TensorsThatAreNoneOfTheNetworksAreLeftOut) {
  Edit(kUNet, [](TinyTensors& tensors) {
    tensors["v_pred"] = {{0}};
    tensors["ztsnr"] = {{0}};
    tensors["model_ema.decay"] = {{}};
  });
  EXPECT_THAT(CheckPipeline(model()), IsOk());
  EXPECT_THAT(Notes("unet"), ElementsAre("1 tensor outside the network's modules (model_ema.decay)",
                                         "2 tensors without elements (v_pred, ztsnr)"));
  // A module that the network may have is not outside, even where this one's config has it not.
  Edit(kUNet, [](TinyTensors& tensors) { tensors["add_embedding.linear_1.weight"] = {{2}}; });
  EXPECT_THAT(CheckPipeline(model()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("1 unexpected")));
}

}  // namespace
}  // namespace d2g::model
