// Files, digests, prompt lists, port files, model folders.
#include <sys/stat.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/common/digest.h"
#include "services/common/file_io.h"
#include "services/common/file_manifest.h"
#include "services/common/model_folder.h"
#include "services/common/port_file.h"
#include "services/common/prompts.h"
#include "services/common/utf8.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace d2g::common {
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

size_t CountFiles(const std::string& folder) {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder), {}));
}

TEST(FileIoTest, WritesWholeOrNothing) {
  const TempDir dir;
  const std::string path = dir.File("a.json");
  ASSERT_THAT(WriteFileAtomically(path, "one"), IsOk());
  ASSERT_THAT(WriteFileAtomically(path, "two"), IsOk());
  EXPECT_THAT(ReadFile(path), IsOkAndHolds(std::string("two")));
  EXPECT_EQ(CountFiles(dir.path()), 1u);
  // A folder in the way: the error names it and no temporary file stays.
  std::filesystem::create_directory(dir.File("folder"));
  EXPECT_THAT(WriteFileAtomically(dir.File("folder"), "x"),
              StatusIs(absl::StatusCode::kInternal, HasSubstr(dir.File("folder"))));
  EXPECT_EQ(CountFiles(dir.path()), 2u);
}

TEST(FileManifestTest, ComparesFilesWithTheList) {
  const TempDir dir;
  ASSERT_THAT(WriteFileAtomically(dir.File("a"), "one"), IsOk());
  ASSERT_THAT(WriteFileAtomically(dir.File("b"), "two"), IsOk());
  EXPECT_THAT(CheckFiles(dir.path(), {"a"}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(dir.File("manifest.json"))));
  ASSERT_OK_AND_ASSIGN(const FileManifest manifest, DescribeFiles(dir.path(), {"a", "b"}));
  ASSERT_THAT(WriteFileAtomically(dir.File("manifest.json"), FormatManifest(manifest)), IsOk());
  EXPECT_THAT(CheckFiles(dir.path(), {"a", "b"}), IsOk());
  EXPECT_THAT(CheckFiles(dir.path(), {"c"}),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("manifest.json: does not list c")));
  EXPECT_THAT(CheckFiles(dir.path(), {"a"}, [] { return false; }),
              StatusIs(absl::StatusCode::kCancelled));
  ASSERT_THAT(WriteFileAtomically(dir.File("a"), "onE"), IsOk());
  ASSERT_THAT(WriteFileAtomically(dir.File("b"), "tw"), IsOk());
  EXPECT_THAT(CheckFiles(dir.path(), {"a"}),
              StatusIs(absl::StatusCode::kDataLoss,
                       HasSubstr(dir.File("a") + ": XXH3-128 is " + Xxh3Hex128("onE") +
                                 ", its manifest says " + Xxh3Hex128("one"))));
  EXPECT_THAT(CheckFiles(dir.path(), {"b"}),
              StatusIs(absl::StatusCode::kDataLoss,
                       HasSubstr(dir.File("b") + ": has 2 bytes, its manifest says 3")));
  std::filesystem::remove(dir.File("a"));
  EXPECT_THAT(CheckFiles(dir.path(), {"a"}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(dir.File("a"))));
  EXPECT_THAT(ParseManifest("m", "{}"), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("files")));
}

TEST(FileIoTest, ErrorsNamePathAndReason) {
  const TempDir dir;
  EXPECT_THAT(ReadFile(dir.File("none")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(dir.File("none"))));
  ASSERT_THAT(WriteFileAtomically(dir.File("big"), std::string(100, 'x')), IsOk());
  EXPECT_THAT(ReadFile("/dev/zero", /*max_bytes=*/99),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("limit of 99")));
  EXPECT_THAT(ReadFile(dir.File("big"), /*max_bytes=*/99),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("99")));
  EXPECT_THAT(WriteFileAtomically(dir.File("no/such/file"), "x"),
              StatusIs(absl::StatusCode::kNotFound));
}

// Reference values of XXH3 with seed 0 (xxhsum -H2, xxhsum -H3 of empty input).
TEST(DigestTest, MatchesReferenceValues) {
  EXPECT_EQ(Xxh3Hex128(""), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(Xxh3(""), 0x2d06800538d394c2ULL);
  Digester digester;
  digester.Update("hello ");
  digester.Update("world");
  EXPECT_EQ(digester.Hex(), Xxh3Hex128("hello world"));
}

TEST(PromptsTest, LinesAndDigest) {
  ASSERT_OK_AND_ASSIGN(const PromptLines list, ParsePromptList("a red shoe\nein grünes Hemd\r\nx"));
  EXPECT_THAT(list.lines, ElementsAre("a red shoe", "ein grünes Hemd", "x"));
  EXPECT_EQ(list.digest, "xxh3-128:" + Xxh3Hex128("a red shoe\nein grünes Hemd\nx\n"));
}

TEST(PromptsTest, AListInPiecesIsTheSameWhereverItIsCut) {
  const std::string text = "a red shoe\r\nein grünes Hemd\n\xe2\x82\xac\r\nx\ry";
  ASSERT_OK_AND_ASSIGN(const PromptLines whole, ParsePromptList(text));
  EXPECT_THAT(whole.lines, ElementsAre("a red shoe", "ein grünes Hemd", "\xe2\x82\xac", "x\ry"));
  for (size_t first = 0; first <= text.size(); ++first) {
    for (size_t second = first; second <= text.size(); ++second) {
      std::vector<std::string> lines;
      const auto keep = [&lines](absl::string_view line) { lines.emplace_back(line); };
      PromptListChecker checker;
      const absl::string_view view = text;
      ASSERT_THAT(checker.Add(view.substr(0, first), keep), IsOk());
      ASSERT_THAT(checker.Add(view.substr(first, second - first), keep), IsOk());
      ASSERT_THAT(checker.Add(view.substr(second), keep), IsOk());
      ASSERT_OK_AND_ASSIGN(const std::string digest, checker.Finish(keep));
      ASSERT_EQ(digest, whole.digest);
      ASSERT_EQ(lines, whole.lines);
      ASSERT_EQ(checker.count(), 4);
    }
  }
}

TEST(PromptsTest, OfALineThatIsTooLongOnlyTheLengthIsKept) {
  const auto ignore = [](absl::string_view) {};
  PromptListChecker checker;
  // A \r may still be dropped.
  ASSERT_THAT(checker.Add("a\n" + std::string(kMaxPromptBytes, 'x') + "\r", ignore), IsOk());
  ASSERT_THAT(checker.Add("\n" + std::string(kMaxPromptBytes, 'x'), ignore), IsOk());
  ASSERT_THAT(checker.Add("yy", ignore), IsOk());
  ASSERT_THAT(checker.Add(std::string(5000, 'y'), ignore), IsOk());
  EXPECT_THAT(checker.Finish(ignore),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("line 3 has 6002 bytes")));
}

TEST(PromptsTest, BadListsNameLineAndLimit) {
  const auto expect = [](const std::string& text, const std::string& part) {
    EXPECT_THAT(ParsePromptList(text),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(part)))
        << part;
  };
  expect("", "no lines");
  expect("a\n\nb\n", "line 2 is empty");
  expect("a\n  \t\nb\n", "line 2 is empty");
  expect("a\n" + std::string(1001, 'x'), "line 2 has 1001 bytes; the limit is 1000");
  expect("a\n\xc3\x28\n", "line 2 is not UTF-8");
  expect("\xed\xa0\x80\n", "line 1 is not UTF-8");
  expect("\xc0\xaf\n", "line 1 is not UTF-8");
  expect("\xe2\x82\n", "line 1 is not UTF-8");
  expect(std::string("a\nb\0c\n", 6), "line 2 holds a NUL character");
  EXPECT_THAT(ParsePromptList(std::string(1000, 'x')), IsOk());
}

TEST(PromptsTest, BlankLinesAtTheEndAreNothing) {
  ASSERT_OK_AND_ASSIGN(const PromptLines plain, ParsePromptList("a\nb\n"));
  for (const char* text : {"a\nb\n\n", "a\nb\n\n \n\r\n", "a\nb\n  "}) {
    ASSERT_OK_AND_ASSIGN(const PromptLines list, ParsePromptList(text));
    EXPECT_EQ(list.digest, plain.digest) << text;
  }
  EXPECT_THAT(ParsePromptList(" \n\n"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no lines")));
}

TEST(PromptsTest, BadLinesAreCountedAndTheFirstThreeNamed) {
  const std::string text = "a\n\n" + std::string(1001, 'x') + "\n\xc3\x28\n\n\nb\n";
  EXPECT_THAT(
      ParsePromptList(text),
      StatusIs(absl::StatusCode::kInvalidArgument,
               "prompt list: 5 bad lines: line 2 is empty; line 3 has 1001 bytes; the limit "
               "is 1000; line 4 is not UTF-8; and 2 more"));
}

TEST(PromptsTest, AFileMayHaveTheLineEndsAndTheMarkOfAnyEditor) {
  ASSERT_OK_AND_ASSIGN(const PromptLines plain, ParsePromptFile("a red shoe\na bag\n"));
  EXPECT_THAT(plain.lines, ElementsAre("a red shoe", "a bag"));
  for (const char* text : {"a red shoe\ra bag\r", "a red shoe\r\na bag\r\n", "a red shoe\ra bag",
                           "\xef\xbb\xbf"
                           "a red shoe\na bag\n",
                           "a red shoe\r\na bag\r\r"}) {
    ASSERT_OK_AND_ASSIGN(const PromptLines list, ParsePromptFile(text));
    EXPECT_EQ(list.digest, plain.digest) << text;
  }
  EXPECT_THAT(ParsePromptFile("a\r\rb"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("line 2 is empty")));
}

TEST(PortFileTest, RoundTrip) {
  const TempDir dir;
  EXPECT_THAT(ReadPortFile(dir.File("p")), StatusIs(absl::StatusCode::kNotFound));
  ASSERT_THAT(WritePortFile(dir.File("p"), {.grpc = 12, .admin = 34}), IsOk());
  ASSERT_OK_AND_ASSIGN(const Ports ports, ReadPortFile(dir.File("p")));
  EXPECT_EQ(ports.grpc, 12);
  EXPECT_EQ(ports.admin, 34);
  ASSERT_THAT(WriteFileAtomically(dir.File("p"), "[]"), IsOk());
  EXPECT_THAT(ReadPortFile(dir.File("p")), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(WritePortFile("", {}), IsOk());
}

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
  EXPECT_TRUE(IsUtf8(message)) << message;
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
}  // namespace d2g::common
