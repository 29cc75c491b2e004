// Headers, shard indices and JSON as hostile as they come. Needs no LibTorch: the sanitizers run it
// too.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <memory>
#include <random>

#include "model/files/input_file.h"
#include "model/files/json_config.h"
#include "model/files/latent_size.h"
#include "model/files/safetensors_header.h"
#include "model/files/weight_files.h"
#include "tests/model/process_memory.h"
#include "tests/model/temp_folder.h"

namespace d2g::model {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;

std::string File(const std::string& header, uint64_t data_size = 0,
                 std::optional<uint64_t> stated = std::nullopt) {
  const uint64_t length = stated.value_or(header.size());
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(length >> (8 * i) & 0xff);
  return bytes + header + std::string(data_size, '\0');
}

// From a buffer of exactly the file's size, so that the address sanitizer sees a read beyond it.
SafetensorsHeader Parse(const std::string& file) {
  const std::unique_ptr<char[]> exact(new char[file.size()]);
  std::memcpy(exact.get(), file.data(), file.size());
  return ParseSafetensorsHeader({exact.get(), file.size()}, "the/file");
}

TEST(SafetensorsHeaderTest, EntriesComeByOffset) {
  const SafetensorsHeader header = Parse(File(
      R"({"b":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"__metadata__":{"k":"v"},)"
      R"("a":{"shape":[],"extra":{"deep":[1,{"x":null}]},"data_offsets":[8,10],"dtype":"BF16"},)"
      R"("e":{"dtype":"F8_E4M3","shape":[3,0],"data_offsets":[10,10]}}   )",
      10));
  ASSERT_EQ(header.entries.size(), 3u);
  EXPECT_EQ(header.entries[0].name, "b");
  EXPECT_THAT(header.entries[0].shape, ElementsAre(2, 1));
  EXPECT_EQ(header.entries[1].name, "a");
  EXPECT_THAT(header.entries[1].shape, IsEmpty());
  EXPECT_EQ(header.entries[1].dtype, SafetensorsDtype::kBF16);
  EXPECT_EQ(header.entries[1].begin, 8u);
  EXPECT_EQ(header.entries[2].dtype, SafetensorsDtype::kF8E4M3);
  EXPECT_EQ(header.metadata.at("k"), "v");
  EXPECT_THAT(Parse(File(R"({"__metadata__":null})")).entries, IsEmpty());
}

TEST(InputFileTest, AFileIsThereOrNotOrCannotBeLookedAt) {
  const TempFolder folder;
  EXPECT_FALSE(FileExists(folder / "a"));
  EXPECT_FALSE(FileExists(folder / "none/a"));
  EXPECT_TRUE(FileExists(folder.Write("a", "x")));
  // One that leads to itself: refused by every system, to root too.
  ASSERT_EQ(::symlink("loop", (folder / "loop").c_str()), 0);
  EXPECT_THAT(MessageOf([&] { FileExists(folder / "loop"); }),
              AllOf(HasSubstr(folder / "loop"), HasSubstr("cannot be looked at")));
}

TEST(SafetensorsHeaderTest, OnlyTheHeaderOfAFileIsRead) {
  const TempFolder folder;
  const std::string path =
      folder.Write("a", File(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})"));
  EXPECT_EQ(ReadSafetensorsHeader(path).entries.at(0).name, "a");
  // A sparse file of 1 TiB: neither read nor mapped.
  constexpr uint64_t kSize = uint64_t{1} << 40;
  const std::string header = R"({"a":{"dtype":"U8","shape":[1099511627776],"data_offsets":)"
                             R"([0,1099511627776]}})";
  const std::string large = folder.Write("b", File(header));
  ASSERT_EQ(::truncate(large.c_str(), static_cast<off_t>(kSize)), 0);
  EXPECT_THAT(MessageOf([&] { ReadSafetensorsHeader(large); }),
              AllOf(HasSubstr(large), HasSubstr("truncated: expected")));
  ASSERT_EQ(::truncate(large.c_str(), static_cast<off_t>(kSize + 8 + header.size())), 0);
  EXPECT_EQ(ReadSafetensorsHeader(large).entries.at(0).end, kSize);
  EXPECT_THAT(MessageOf([&] { ReadSafetensorsHeader(folder.Write("c", "abc")); }),
              HasSubstr("too short for a safetensors file: 3 bytes"));
  EXPECT_THAT(MessageOf([&] { ReadSafetensorsHeader(folder.Write("d", File("{}", 0, 1000))); }),
              HasSubstr("truncated: header of 1000 bytes"));
  EXPECT_THAT(
      MessageOf([&] {
        ReadSafetensorsHeader(folder.Write("e", "version https://git-lfs.github.com/spec/v1\n"));
      }),
      HasSubstr("is a Git LFS pointer"));
  EXPECT_THROW(ReadSafetensorsHeader(folder / "nothing"), IoError);
}

TEST(SafetensorsHeaderTest, DtypesHaveNamesAndSizes) {
  for (const char* name : {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32", "I16",
                           "I8", "U8", "BOOL"}) {
    const auto dtype = FindSafetensorsDtype(name);
    ASSERT_TRUE(dtype) << name;
    EXPECT_STREQ(NameOf(*dtype), name);
  }
  EXPECT_EQ(ElementSize(SafetensorsDtype::kF64), 8u);
  EXPECT_EQ(ElementSize(SafetensorsDtype::kBF16), 2u);
  EXPECT_EQ(ElementSize(SafetensorsDtype::kBool), 1u);
}

// One tensor x of four bytes with these fields.
std::string OneTensor(const std::string& dtype, const std::string& shape,
                      const std::string& offsets) {
  return File(
      R"({"x":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}",
      4);
}

TEST(SafetensorsHeaderTest, HostileHeadersAreRefused) {
  const std::string f32 = R"("F32")";
  const std::string x = R"("x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  std::string ones = "[1";
  for (size_t i = 0; i < kMaxSafetensorsRank; ++i) ones += ",1";
  const struct {
    std::string bytes;
    const char* message;
  } kCases[] = {
      {"", "too short"},
      {"1234567", "too short"},
      {"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n", "Git LFS pointer"},
      {File("{}", 0, ~uint64_t{0}), "over the limit"},
      {File("{}", 0, kMaxSafetensorsHeader + 1), "over the limit"},
      {File("{}", 0, 1000), "truncated"},
      {File("", 0), "not valid JSON"},
      {File("{"), "not valid JSON"},
      {File("{}{}"), "not valid JSON"},
      {File("{}\xff"), "not valid JSON"},
      {File("{\"\xff\xfe\":1}"), "not valid JSON"},
      {File("{'x':1}"), "not valid JSON"},
      {File("[]"), "not a JSON object"},
      {File("7"), "not a JSON object"},
      {File(R"({"x":7})"), "needs dtype, shape and data_offsets"},
      {File(R"({"x":{"dtype":"F32"}})"), "needs dtype, shape and data_offsets"},
      {File(R"({"x\u0000y":{}})"), "tensor x\\x00y: its name holds control characters"},
      {OneTensor(R"("F8")", "[1]", "[0,4]"), "F8 is not one of"},
      {OneTensor(R"("U32")", "[1]", "[0,4]"), "U32 is not one of"},
      {OneTensor("7", "[1]", "[0,4]"), "7 is not one of"},
      {OneTensor("[]", "[1]", "[0,4]"), "is not one of"},
      {OneTensor(f32, "[2]", "[0,4]"), "do not hold the 8 bytes"},
      {OneTensor(f32, "[1]", "[4,0]"), "do not hold"},
      {OneTensor(f32, "[1]", "[0,5]"), "do not hold"},
      {OneTensor(f32, "[-1]", "[0,4]"), "-1, not a whole number"},
      {OneTensor(f32, "[1.5]", "[0,4]"), "1.5, not a whole number"},
      {OneTensor(f32, "[1e0]", "[0,4]"), "1e0, not a whole number"},
      {OneTensor(f32, "[18446744073709551617]", "[0,4]"), "not a whole number"},
      {OneTensor(f32, "[18446744073709551615]", "[0,4]"), "too large"},
      {OneTensor(f32, "[null]", "[0,4]"), "not a whole number"},
      {OneTensor(f32, "[[1]]", "[0,4]"), "not a whole number"},
      {OneTensor(f32, "[4611686018427387904,16]", "[0,4]"), "too large"},
      {OneTensor(f32, "[4294967296,4294967296,0]", "[0,0]"), "too large"},
      {OneTensor(f32, ones + "]", "[0,4]"), "more than 64 dimensions"},
      {OneTensor(f32, "1", "[0,4]"), "shape is 1, not a list"},
      {OneTensor(f32, "{}", "[0,4]"), "shape is an object, not a list"},
      {OneTensor(f32, "[1]", "[0]"), "not a pair"},
      {OneTensor(f32, "[1]", "[0,4,4]"), "not a pair"},
      {OneTensor(f32, "[1]", "4"), "data_offsets is 4, not a list"},
      {OneTensor(f32, "[1]", "[-4,0]"), "-4, not a whole number"},
      {OneTensor(f32, "[1]", "[0,4.0]"), "4.0, not a whole number"},
      {OneTensor(f32, "[1]", R"([0,4],"shape":[1])"), "shape comes twice"},
      {OneTensor(f32, "[1]", "[4,8]"), "hole of 4 bytes before tensor x"},
      {OneTensor(f32, "[0]", "[0,0]"), "belong to no tensor"},
      {OneTensor(f32, "[1000]", "[0,4000]"), "truncated: expected"},
      {OneTensor(f32, "[4611686018427387903]", "[0,18446744073709551612]"), "too large"},
      {File("{" + x + "," + x + "}", 4), "tensor x: comes twice"},
      {File("{" + x + R"(,"y":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 8),
       "x and y overlap"},
      {File("{" + x + R"(,"y":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})", 8),
       "x and y overlap"},
      {File(R"({"__metadata__":{"a":1}})"), "is not a string"},
      {File(R"({"__metadata__":{"a":{}}})"), "is not a string"},
      {File(R"({"__metadata__":[]})"), "not an object"},
      {File(R"({"__metadata__":{},"__metadata__":{}})"), "comes twice"},
      {File(R"({"x":{"y":)" + std::string(20, '[') + std::string(20, ']') + "}}"), "too deep"},
  };
  for (const auto& item : kCases) {
    EXPECT_THAT(MessageOf([&] { Parse(item.bytes); }),
                AllOf(HasSubstr("the/file"), HasSubstr(item.message)))
        << item.bytes.substr(0, 200);
  }
}

TEST(SafetensorsHeaderTest, HugeHeadersTakeNoMemory) {
  constexpr size_t kSize = 50'000'000;
  std::string shape = R"({"x":{"dtype":"F32","shape":[1)";
  while (shape.size() < kSize) shape += ",1";
  std::string tensors = "{";
  for (size_t i = 0; i <= kMaxSafetensorsTensors; ++i) {
    tensors.append("\"").append(std::to_string(i));
    tensors += R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)";
  }
  const struct {
    std::string header;
    const char* message;
  } kCases[] = {
      {std::string(kSize, '['), "not a JSON object"},
      {R"({"x":)" + std::string(kSize, '['), "needs dtype"},
      {R"({"x":{"y":)" + std::string(kSize, '['), "too deep"},
      {shape, "more than 64 dimensions"},
      {tensors, "more than 100000 tensors"},
  };
  for (const auto& item : kCases) {
    const std::string file = File(item.header);
    const int64_t before = PeakMemory();
    const std::string message = MessageOf([&] { ParseSafetensorsHeader(file, "the/file"); });
    EXPECT_THAT(message, HasSubstr(item.message));
    EXPECT_LT(message.size(), 500u);
    ExpectPeakGrowthBelow(before, 64 << 20);
  }
}

TEST(WeightFilesTest, IndexIsReadAndChecked) {
  const auto shards = ParseShardIndex(
      R"({"metadata":{"total_size":7,"x":[{}]},"weight_map":{"a":"1","b":"2","c":"1"}})", "i");
  ASSERT_EQ(shards.size(), 2u);
  EXPECT_THAT(shards.at("1"), ElementsAre("a", "c"));
  EXPECT_THAT(shards.at("2"), ElementsAre("b"));

  const struct {
    std::string text;
    const char* message;
  } kCases[] = {
      {"", "not valid JSON"},
      {"[]", "not a JSON object"},
      {"{}", "has no \"weight_map\""},
      {R"({"weight_map":[]})", "weight_map is not an object"},
      {R"({"weight_map":{"a":1}})", "weight_map of a is not a file name"},
      {R"({"weight_map":{"a":{"b":"c"}}})", "weight_map of a is not a file name"},
      {R"({"weight_map":{"a":""}})", "not a plain file name"},
      {R"({"weight_map":{"a":".."}})", "not a plain file name"},
      {R"({"weight_map":{"a":"../x"}})", "not a plain file name"},
      {R"({"weight_map":{"a":"/etc/passwd"}})", "not a plain file name"},
      {R"({"weight_map":{"a":"x\u0000"}})", "not a plain file name"},
      {R"({"weight_map":{"a":"1","a":"2"}})", "names tensor a twice"},
      {R"({"weight_map":{},"weight_map":{}})", "comes twice"},
      {R"({"metadata":)" + std::string(1'000'000, '['), "nested too deep"},
  };
  for (const auto& item : kCases) {
    EXPECT_THAT(MessageOf([&] { ParseShardIndex(item.text, "the/index"); }),
                AllOf(HasSubstr("the/index"), HasSubstr(item.message)));
  }
  std::string many = R"({"weight_map":{)";
  for (size_t i = 0; i <= kMaxSafetensorsTensors; ++i) {
    many.append("\"").append(std::to_string(i)).append("\":\"f\",");
  }
  EXPECT_THAT(MessageOf([&] { ParseShardIndex(many, "i"); }), HasSubstr("more than 100000"));
}

TEST(WeightFilesTest, OnlyNamesAreLookedAt) {
  const TempFolder folder;
  folder.Write("model.fp16.safetensors", "no weights");
  EXPECT_THAT(ChooseWeightFiles(folder.path(), "model").shards,
              ElementsAre(Pair("model.fp16.safetensors", IsEmpty())));
  folder.Write("model.safetensors.index.json", R"({"weight_map":{"a":"absent","b":"absent"}})");
  const WeightFiles chosen = ChooseWeightFiles(folder.path(), "model");
  EXPECT_EQ(chosen.index, "model.safetensors.index.json");
  EXPECT_THAT(chosen.shards, ElementsAre(Pair("absent", ElementsAre("a", "b"))));
  EXPECT_THROW(ChooseWeightFiles(folder / "nowhere", "model"), IoError);
}

// A random change of a file that is nearly right gets further than random bytes do.
std::string Mutated(std::string file, std::mt19937_64& random) {
  static const char* const kTokens[] = {"[",
                                        "]",
                                        "{",
                                        "}",
                                        ",",
                                        ":",
                                        "\"",
                                        "null",
                                        "-1",
                                        "1e9",
                                        "0",
                                        "1",
                                        "4",
                                        "8",
                                        "true",
                                        "\\u0000",
                                        "\xff",
                                        "\"F32\"",
                                        "\"I64\"",
                                        "\"shape\"",
                                        "\\",
                                        "[[[[[",
                                        "\"x\"",
                                        "18446744073709551615",
                                        "{\"a\":",
                                        "9223372036854775807",
                                        "\"data_offsets\":[0,4]",
                                        "\"__metadata__\":{}"};
  const auto below = [&](size_t n) {
    return static_cast<size_t>(random() % std::max<size_t>(n, 1));
  };
  for (size_t changes = 1 + below(3); changes > 0; --changes) {
    const size_t at = below(file.size());
    switch (below(6)) {
      case 0:
        if (!file.empty()) file[at] = static_cast<char>(random());
        break;
      case 1:
        file.resize(at);
        break;
      case 2:
        file.erase(at, below(12));
        break;
      case 3:
        file.insert(at, file.substr(below(file.size()), below(40)));
        break;
      default:
        file.insert(at, kTokens[below(std::size(kTokens))]);
    }
  }
  // Mostly with a length that fits the new header, so that more than the length is tested.
  if (file.size() >= 8 && below(4) != 0) {
    const size_t end = file.rfind('}');
    if (end != std::string::npos && end >= 8) {
      const uint64_t length = end + 1 - 8;
      for (size_t i = 0; i < 8; ++i) file[i] = static_cast<char>(length >> (8 * i) & 0xff);
    }
  }
  return file;
}

TEST(SafetensorsHeaderTest, MutatedFilesAreReadOrRefused) {
  const std::string kFiles[] = {
      File(R"({"x":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
           R"("y":{"dtype":"F16","shape":[4],"data_offsets":[24,32]}})",
           32),
      File(R"({"__metadata__":{"format":"pt"},"a.b":{"dtype":"I64","shape":[],)"
           R"("data_offsets":[0,8]},"e":{"dtype":"U8","shape":[0],"data_offsets":[8,8]}}  )",
           8),
      File("{}"),
  };
  std::mt19937_64 random(20250728);
  const int64_t before = PeakMemory();
  int read = 0, refused = 0;
  for (int i = 0; i < 30'000; ++i) {
    const std::string file = Mutated(kFiles[i % std::size(kFiles)], random);
    SafetensorsHeader header;
    try {
      header = Parse(file);
    } catch (const Error&) {
      ++refused;
      continue;
    }
    ++read;
    uint64_t position = 0;
    for (const SafetensorsEntry& entry : header.entries) {
      EXPECT_EQ(entry.begin, position);
      position = entry.end;
    }
    EXPECT_EQ(header.data_begin + position, file.size());
  }
  EXPECT_GT(read, 100);
  EXPECT_GT(refused, 1000);
  ExpectPeakGrowthBelow(before, 64 << 20);
}

TEST(WeightFilesTest, MutatedIndicesAreReadOrRefused) {
  const std::string index =
      R"({"metadata":{"total_size":8},"weight_map":{"a":"s-1-of-2","b":"s-2-of-2"}})";
  std::mt19937_64 random(7);
  const int64_t before = PeakMemory();
  for (int i = 0; i < 10'000; ++i) {
    try {
      for (const auto& [shard, names] : ParseShardIndex(Mutated(index, random), "i")) {
        EXPECT_EQ(shard.find('/'), std::string::npos);
      }
    } catch (const Error&) {
    }
  }
  ExpectPeakGrowthBelow(before, 64 << 20);
}

TEST(JsonFileTest, HostileFilesAreRefusedWithoutMemory) {
  const TempFolder folder;
  const int64_t before = PeakMemory();
  EXPECT_THAT(MessageOf([&] { ReadJsonFile(folder.Write("a", std::string(1'000'000, '['))); }),
              AllOf(HasSubstr(folder / "a"), HasSubstr("nested deeper than the limit of 64")));
  EXPECT_THAT(MessageOf([&] { ReadJsonFile(folder.Write("b", std::string(17 << 20, ' '))); }),
              HasSubstr("over the limit of 16777216"));
  EXPECT_THAT(MessageOf([&] { ReadJsonFile(folder.Write("c", "version https://git-lfs x")); }),
              HasSubstr("Git LFS pointer"));
  EXPECT_THAT(MessageOf([&] { ReadJsonFile("/dev/zero"); }), HasSubstr("not a regular file"));
  EXPECT_THAT(MessageOf([&] { ReadJsonFile(folder / "none"); }), HasSubstr("cannot be opened"));
  ::mkfifo((folder / "pipe").c_str(), 0600);
  EXPECT_THAT(MessageOf([&] { ReadJsonFile(folder / "pipe"); }), HasSubstr("not a regular file"));
  EXPECT_EQ(
      ReadJsonFile(folder.Write("d", R"({"a":"[[NaN","b":[NaN,-Infinity,"\"Infinity"]})")).dump(),
      R"({"a":"[[NaN","b":[null,null,"\"Infinity"]})");
  ExpectPeakGrowthBelow(before, 64 << 20);
}

TEST(JsonConfigTest, NumbersOutOfRangeAreNamed) {
  const JsonConfig json(ParseJson(R"({"big":18446744073709551615,"list":[1,18446744073709551615],
                                      "widths":[0],"many":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],
                                      "numbers":[1,2.5],"words":["a"],"text":")" +
                                      std::string(1000, 'x') + R"("})",
                                  "c.json"),
                        "c.json");
  EXPECT_THAT(MessageOf([&] { json.Int("big", 0); }),
              AllOf(HasSubstr("c.json: option \"big\" is 18446744073709551615"),
                    HasSubstr("must be an integer")));
  EXPECT_THAT(MessageOf([&] { json.Ints("list", {}, 0); }), HasSubstr("list of integers"));
  EXPECT_THAT(MessageOf([&] { json.IntBetween("none", 7, 1, 6); }), HasSubstr("must be in [1, 6]"));
  EXPECT_THAT(MessageOf([&] { json.Widths("widths", {}); }), HasSubstr("must be in [1, 1048576]"));
  EXPECT_THAT(MessageOf([&] { json.Widths("many", {}); }), HasSubstr("1 to 16 entries"));
  EXPECT_THAT(MessageOf([&] { json.Widths("big", {}); }), HasSubstr("list of integers"));
  EXPECT_THAT(json.Widths("none", {3, 4}), ElementsAre(3, 4));
  EXPECT_THAT(json.Doubles("numbers", {}), ElementsAre(1, 2.5));
  EXPECT_THAT(MessageOf([&] { json.Doubles("words", {}); }), HasSubstr("list of numbers"));
  EXPECT_LT(MessageOf([&] { json.Int("text", 0); }).size(), 400u);
}

std::optional<LatentSize> LatentSizeOf(const std::string& options) {
  return ReadLatentSize(JsonConfig(WithoutDefaults(ParseJson(options, "c.json")), "c.json"));
}

TEST(LatentSizeTest, SmallNumbersOfOldFilesBecome64) {
  constexpr LatentSize kOld{64, 64};
  EXPECT_EQ(LatentSizeOf(R"({"sample_size":32,"_diffusers_version":"0.7.0.dev0"})"), kOld);
  EXPECT_EQ(LatentSizeOf(R"({"sample_size":63,"_diffusers_version":"0.8.99"})"), kOld);
  EXPECT_EQ(LatentSizeOf(R"({"sample_size":1,"_diffusers_version":"0"})"), kOld);
  EXPECT_EQ(LatentSizeOf(R"({"sample_size":8,"_diffusers_version":" v0.7.0+abc "})"), kOld);
  EXPECT_EQ(LatentSizeOf(R"({"sample_size":8,"_diffusers_version":"0!0.7"})"), kOld);
  for (const char* version : {"0.9.0.dev0", "0.9", "0.9.0rc1", "0.10.0", "1.0", "1!0.7", "10.1"}) {
    const std::string text = std::string(R"("_diffusers_version":")") + version + '"';
    EXPECT_EQ(LatentSizeOf(R"({"sample_size":8,)" + text + "}"), (LatentSize{8, 8})) << version;
  }
  EXPECT_EQ(LatentSizeOf(R"({"sample_size":8})"), (LatentSize{8, 8}));
  EXPECT_EQ(LatentSizeOf(R"({"sample_size":[8,16],"_diffusers_version":"0.7.0"})"),
            (LatentSize{8, 16}));
  EXPECT_EQ(LatentSizeOf(R"({"sample_size":96,"_diffusers_version":"0.7.0"})"),
            (LatentSize{96, 96}));
}

TEST(LatentSizeTest, WhatTheFileDoesNotSayStaysUnsaid) {
  EXPECT_EQ(LatentSizeOf(R"({"_diffusers_version":"0.7.0"})"), std::nullopt);
  EXPECT_EQ(LatentSizeOf(R"({"sample_size":null,"_diffusers_version":"0.7.0"})"), std::nullopt);
  EXPECT_EQ(LatentSizeOf(R"({"sample_size":8,"_diffusers_version":"0.7.0",
                             "_use_default_values":["sample_size"]})"),
            std::nullopt);
}

TEST(LatentSizeTest, BadSizesAndVersionsAreNamed) {
  for (const char* version : {"\"main\"", "\"\"", "0.7", "\"-1\"", "\"99999999999\""}) {
    const std::string text = std::string(R"("_diffusers_version":)") + version;
    EXPECT_THAT(MessageOf([&] { LatentSizeOf(R"({"sample_size":8,)" + text + "}"); }),
                HasSubstr("c.json: option \"_diffusers_version\" is "))
        << version;
    EXPECT_EQ(LatentSizeOf(R"({"sample_size":64,)" + text + "}"), (LatentSize{64, 64})) << version;
  }
  for (const char* size : {"0", "-8", "8.5", "true", "[8]", "[8,0]", "1048577", "\"8\""}) {
    EXPECT_THAT(MessageOf([&] { LatentSizeOf(std::string(R"({"sample_size":)") + size + "}"); }),
                HasSubstr("c.json: option \"sample_size\" is "))
        << size;
  }
}

}  // namespace
}  // namespace d2g::model
