// Looking at a folder without loading it.
#include <sys/stat.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/folder/model_folder.h"
#include "services/common/digest.h"
#include "services/common/file_io.h"
#include "services/common/utf8.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace d2g::model {
namespace {

using ::d2g::testing::IsOk;
using ::d2g::testing::IsOkAndHolds;
using ::d2g::testing::StatusIs;
using ::d2g::testing::TempDir;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// A small folder with everything InspectModelFolder looks at.
class ModelFolderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Write("model_index.json",
          R"({"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "U"],
              "vae": ["diffusers", "V"], "text_encoder": ["transformers", "T"],
              "tokenizer": ["transformers", "T"], "scheduler": ["diffusers", "D"],
              "safety_checker": [null, null]})");
    Write("unet/config.json", R"({"in_channels": 4, "sample_size": 8})");
    Write("vae/config.json", "{}");
    Write("text_encoder/config.json", "{}");
    Write("tokenizer/vocab.json", "{}");
    Write("tokenizer/merges.txt", "#version: 0.2\n");
    Write("scheduler/scheduler_config.json", "{}");
    for (const char* file :
         {"unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
          "text_encoder/model.safetensors"}) {
      Write(file, Safetensors());
    }
  }

  static std::string Safetensors() {
    const std::string header =
        R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
        R"("b":{"dtype":"F16","shape":[],"data_offsets":[24,26]}})";
    std::string file;
    for (int i = 0; i < 8; ++i) file.push_back(static_cast<char>(header.size() >> (8 * i)));
    return file + header + std::string(26, '\1');
  }

  void Write(const std::string& file, const std::string& content) {
    const std::string path = dir_.File(file);
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream(path, std::ios::binary) << content;
  }

  void ExpectBad(const std::string& part) {
    EXPECT_THAT(InspectModelFolder(dir_.path()),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(part)))
        << part;
  }

  TempDir dir_;
};

TEST_F(ModelFolderTest, CompleteFolder) {
  ASSERT_OK_AND_ASSIGN(const ModelFolder folder, InspectModelFolder(dir_.path()));
  EXPECT_EQ(folder.latent_channels, 4);
  EXPECT_EQ(folder.latent_height, 8);
  EXPECT_EQ(folder.latent_width, 8);
  EXPECT_EQ(folder.files.size(), 10u);
  EXPECT_EQ(folder.digest.size(), 9u + 32u);
  EXPECT_THAT(folder.digest, HasSubstr("xxh3-128:"));
}

TEST_F(ModelFolderTest, TheOnlyVariantOfWeightsIsTaken) {
  const std::string unet = dir_.File("unet/diffusion_pytorch_model");
  std::filesystem::rename(unet + ".safetensors", unet + ".fp16.safetensors");
  ASSERT_OK_AND_ASSIGN(const ModelFolder folder, InspectModelFolder(dir_.path()));
  EXPECT_THAT(folder.files, ::testing::Contains("unet/diffusion_pytorch_model.fp16.safetensors"));
  Write("unet/diffusion_pytorch_model.non_ema.safetensors", Safetensors());
  ExpectBad("several variants of diffusion_pytorch_model.safetensors (fp16, non_ema)");
  // Pieces of a variant, with their index.
  std::filesystem::remove(unet + ".non_ema.safetensors");
  std::filesystem::rename(unet + ".fp16.safetensors", unet + ".fp16-00001-of-00001.safetensors");
  Write("unet/diffusion_pytorch_model.safetensors.index.fp16.json",
        R"({"weight_map": {"a": "diffusion_pytorch_model.fp16-00001-of-00001.safetensors"}})");
  ASSERT_OK_AND_ASSIGN(const ModelFolder pieces, InspectModelFolder(dir_.path()));
  EXPECT_THAT(pieces.files,
              ::testing::Contains("unet/diffusion_pytorch_model.fp16-00001-of-00001.safetensors"));
}

TEST_F(ModelFolderTest, NumbersThatOnlyPythonWritesAreRead) {
  Write("scheduler/scheduler_config.json",
        R"({"lambda_min_clipped": -Infinity, "note": "Infinity \" NaN", "x": [NaN, Infinity],
            "num_train_timesteps": 77})");
  ASSERT_OK_AND_ASSIGN(const ModelFolder folder, InspectModelFolder(dir_.path()));
  EXPECT_EQ(folder.train_timesteps, 77);
}

TEST_F(ModelFolderTest, AFastTokenizersFileIsEnough) {
  std::filesystem::remove(dir_.File("tokenizer/vocab.json"));
  std::filesystem::remove(dir_.File("tokenizer/merges.txt"));
  ExpectBad("tokenizer/vocab.json is missing");
  Write("tokenizer/tokenizer.json", "{}");
  ASSERT_OK_AND_ASSIGN(const ModelFolder folder, InspectModelFolder(dir_.path()));
  EXPECT_THAT(folder.files, ::testing::Contains("tokenizer/tokenizer.json"));
  EXPECT_FALSE(folder.wants_pooled_text);
}

TEST_F(ModelFolderTest, DigestFollowsContentOfComponentsOnly) {
  ASSERT_OK_AND_ASSIGN(const ModelFolder before, InspectModelFolder(dir_.path()));
  Write("README.md", "words");
  ASSERT_OK_AND_ASSIGN(const ModelFolder with_readme, InspectModelFolder(dir_.path()));
  EXPECT_EQ(with_readme.digest, before.digest);
  std::string changed = Safetensors();
  changed.back() = '\2';
  Write("unet/diffusion_pytorch_model.safetensors", changed);
  ASSERT_OK_AND_ASSIGN(const ModelFolder after, InspectModelFolder(dir_.path()));
  EXPECT_NE(after.digest, before.digest);
  Write("tokenizer/added_tokens.json", R"({"<new>": 7})");
  ASSERT_OK_AND_ASSIGN(const ModelFolder with_token, InspectModelFolder(dir_.path()));
  EXPECT_NE(with_token.digest, after.digest);
  EXPECT_THAT(with_token.files, Contains("tokenizer/added_tokens.json"));
}

TEST_F(ModelFolderTest, TicksWhileItReadsAndStops) {
  int ticks = 0;
  ASSERT_OK_AND_ASSIGN(const ModelFolder folder,
                       InspectModelFolder(dir_.path(), [&] { return ++ticks > 0; }));
  EXPECT_EQ(ticks, static_cast<int>(folder.files.size()));
  const auto never = [] { return false; };
  EXPECT_THAT(InspectModelFolder(dir_.path(), never), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(FolderDigest(dir_.path(), never), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(FindModelFolder(dir_.path(), folder.digest, never),
              StatusIs(absl::StatusCode::kCancelled));
}

TEST_F(ModelFolderTest, AFolderThatWasInspectedElsewhereMayNotBeUsableHere) {
  ASSERT_OK_AND_ASSIGN(const ModelFolder folder, InspectModelFolder(dir_.path()));
  ASSERT_OK_AND_ASSIGN(const ModelFolder found, FindModelFolder(dir_.path(), folder.digest));
  EXPECT_EQ(found.digest, folder.digest);
  EXPECT_THAT(FindModelFolder(dir_.path(), "xxh3-128:00"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("xxh3-128:00")));
  EXPECT_THAT(FindModelFolder(dir_.File("nowhere"), folder.digest),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("nowhere")));
}

TEST_F(ModelFolderTest, MissingFilesAreNamed) {
  for (const char* file : {"model_index.json", "unet/config.json", "tokenizer/merges.txt",
                           "scheduler/scheduler_config.json"}) {
    const std::string path = dir_.File(file);
    std::filesystem::rename(path, path + ".away");
    ExpectBad(std::string(file) + " is missing");
    std::filesystem::rename(path + ".away", path);
  }
  for (const char* file :
       {"vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"}) {
    const std::string path = dir_.File(file);
    std::filesystem::rename(path, path + ".away");
    ExpectBad(std::string(file) + ": no such file");
    std::filesystem::rename(path + ".away", path);
  }
  EXPECT_THAT(InspectModelFolder(dir_.File("nowhere")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("is not a folder")));
}

TEST_F(ModelFolderTest, TruncatedWeightsNameBothSizes) {
  const std::string whole = Safetensors();
  Write("unet/diffusion_pytorch_model.safetensors", whole.substr(0, whole.size() - 5));
  ExpectBad("unet/diffusion_pytorch_model.safetensors: truncated: expected " +
            std::to_string(whole.size()) + " bytes, found " + std::to_string(whole.size() - 5));
  Write("unet/diffusion_pytorch_model.safetensors", whole.substr(0, 20));
  ExpectBad("truncated: header of");
  Write("unet/diffusion_pytorch_model.safetensors", "abc");
  ExpectBad("too short for a safetensors file: 3 bytes");
  Write("unet/diffusion_pytorch_model.safetensors", whole + "x");
  ExpectBad("bytes that belong to no tensor");
  Write("unet/diffusion_pytorch_model.safetensors", "version https://git-lfs.github.com/spec/v1\n");
  ExpectBad("is a Git LFS pointer");
}

TEST_F(ModelFolderTest, APieceHoldsWhatItsIndexPromises) {
  const std::string unet = dir_.File("unet/diffusion_pytorch_model");
  std::filesystem::rename(unet + ".safetensors", dir_.File("unet/piece.safetensors"));
  const std::string index = "unet/diffusion_pytorch_model.safetensors.index.json";
  Write(index, R"({"weight_map": {"a": "piece.safetensors", "c": "piece.safetensors"}})");
  ExpectBad("unet/piece.safetensors lacks tensor c of the index");
  Write(index, R"({"weight_map": {"a": "piece.safetensors", "b": "other.safetensors"}})");
  ExpectBad("unet/other.safetensors is missing");
  Write(index, R"({"weight_map": {"a": "../piece.safetensors"}})");
  ExpectBad("is not a plain file name");
}

TEST_F(ModelFolderTest, TheOnlyVariantStandsForThePlainWeights) {
  const std::string unet = "unet/diffusion_pytorch_model";
  const auto listed = [&] {
    const auto folder = InspectModelFolder(dir_.path());
    EXPECT_THAT(folder, IsOk());
    return folder.ok() ? folder->files : std::vector<std::string>();
  };
  Write(unet + ".fp16.safetensors", Safetensors());
  EXPECT_THAT(listed(), Not(Contains(unet + ".fp16.safetensors")));
  std::filesystem::remove(dir_.File(unet + ".safetensors"));
  EXPECT_THAT(listed(), Contains(unet + ".fp16.safetensors"));
  Write(unet + ".non_ema-00001-of-00001.safetensors", Safetensors());
  Write(unet + ".safetensors.index.non_ema.json",
        R"({"weight_map": {"a": "diffusion_pytorch_model.non_ema-00001-of-00001.safetensors"}})");
  ExpectBad("several variants of diffusion_pytorch_model.safetensors (fp16, non_ema)");
  std::filesystem::remove(dir_.File(unet + ".fp16.safetensors"));
  EXPECT_THAT(listed(), Contains(unet + ".non_ema-00001-of-00001.safetensors"));
}

TEST_F(ModelFolderTest, TheIndexOfDiffusersAndTheFileOfTransformersComeFirst) {
  for (const std::string stem : {"unet/diffusion_pytorch_model", "text_encoder/model"}) {
    Write(stem + ".safetensors.index.json", R"({"weight_map": {"a": "shard.safetensors"}})");
  }
  Write("unet/shard.safetensors", Safetensors());
  ASSERT_OK_AND_ASSIGN(const ModelFolder folder, InspectModelFolder(dir_.path()));
  EXPECT_THAT(folder.files, Contains("unet/shard.safetensors"));
  EXPECT_THAT(folder.files, Not(Contains("unet/diffusion_pytorch_model.safetensors")));
  EXPECT_THAT(folder.files, Contains("text_encoder/model.safetensors"));
}

TEST_F(ModelFolderTest, HugeJsonIsRefusedUnparsed) {
  const std::string deep(10'000'000, '[');
  std::string header;
  for (int i = 0; i < 8; ++i) header.push_back(static_cast<char>(deep.size() >> (8 * i)));
  Write("unet/diffusion_pytorch_model.safetensors", header + deep);
  ExpectBad("unet/diffusion_pytorch_model.safetensors: header is not a JSON object");
  Write("unet/config.json", deep);
  ExpectBad("unet/config.json: JSON is nested deeper than the limit of 64");
  Write("unet/config.json", std::string(17 << 20, ' '));
  ExpectBad("unet/config.json: 17825792 bytes are over the limit of 16777216");
}

TEST_F(ModelFolderTest, MessagesAreUtf8WhateverFilesHold) {
  Write("unet/config.json", "{\"a\": \"caf\xe9\"}");
  const std::string message(InspectModelFolder(dir_.path()).status().message());
  EXPECT_THAT(message, HasSubstr("unet/config.json: not valid JSON"));
  EXPECT_TRUE(common::IsUtf8(message)) << message;
}

TEST_F(ModelFolderTest, LatentsAreAsLargeAsThePipelineDrawsThem) {
  Write("unet/config.json",
        R"({"in_channels": 4, "sample_size": 32, "_diffusers_version": "0.7.0.dev0"})");
  ASSERT_OK_AND_ASSIGN(ModelFolder folder, InspectModelFolder(dir_.path()));
  EXPECT_EQ(folder.latent_height, 64);
  EXPECT_EQ(folder.latent_width, 64);
  Write("unet/config.json",
        R"({"in_channels": 4, "sample_size": [32, 48], "_diffusers_version": "0.7.0.dev0"})");
  ASSERT_OK_AND_ASSIGN(folder, InspectModelFolder(dir_.path()));
  EXPECT_EQ(folder.latent_height, 32);
  EXPECT_EQ(folder.latent_width, 48);
  Write("unet/config.json", R"({"in_channels": 4, "sample_size": [32, 4097]})");
  ExpectBad("unet/config.json has no sample_size from 1 to 4096");
  Write("unet/config.json", R"({"in_channels": 4})");
  ExpectBad("unet/config.json has no sample_size from 1 to 4096");
  Write("unet/config.json",
        R"({"in_channels": 4, "sample_size": 8, "_diffusers_version": "main"})");
  ExpectBad("unet/config.json: option \"_diffusers_version\" is \"main\"");
}

TEST_F(ModelFolderTest, BadConfigIsNamed) {
  Write("unet/config.json", "{");
  ExpectBad("unet/config.json: not valid JSON: parse error at line 1");
  Write("unet/config.json", "[1]");
  ExpectBad("unet/config.json is not a JSON object");
  Write("unet/config.json", R"({"in_channels": 0, "sample_size": 8})");
  ExpectBad("in_channels");
  Write("unet/config.json", R"({"in_channels": 4, "sample_size": 8})");
  Write("model_index.json", R"({"unet": ["a", "b"]})");
  ExpectBad("lists no component vae");
}

TEST_F(ModelFolderTest, FolderDigestCoversEveryVisibleFile) {
  ASSERT_OK_AND_ASSIGN(const std::string before, FolderDigest(dir_.path()));
  Write(".hidden", "x");
  EXPECT_THAT(FolderDigest(dir_.path()), IsOkAndHolds(before));
  Write("README.md", "x");
  ASSERT_OK_AND_ASSIGN(const std::string after, FolderDigest(dir_.path()));
  EXPECT_NE(after, before);
  EXPECT_THAT(FolderDigest(dir_.File("nowhere")), StatusIs(absl::StatusCode::kNotFound));
}

}  // namespace
}  // namespace d2g::model
