#include "model/weights/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <random>

#include "model/files/error.h"
#include "model/files/json_config.h"
#include "model/network/parameters.h"
#include "tests/model/process_memory.h"
#include "tests/model/temp_folder.h"

namespace d2g::model {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string File(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(length >> (8 * i) & 0xff);
  return bytes + header + data;
}

TEST(SafetensorsTest, ReadsBackWhatItWrote) {
  const TempFolder folder;
  TensorMap tensors = {{"f32", at::randn({3, 5})},
                       {"f64", at::randn({2}, at::kDouble)},
                       {"f16", at::randn({7}).to(at::kHalf)},
                       {"bf16", at::randn({1, 1, 3}).to(at::kBFloat16)},
                       {"i64", at::arange(4)},
                       {"u8", at::arange(5).to(at::kByte)},
                       {"bool", at::ones({3}, at::kBool)},
                       {"scalar", at::full({}, 2.5)},
                       {"empty", at::empty({0, 4})},
                       {"strided", at::randn({4, 6}).t()}};
  WriteSafetensors(folder / "a.safetensors", tensors, {{"key", "value"}});
  const TensorMap read = ReadSafetensors(folder / "a.safetensors");
  ASSERT_EQ(read.size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    EXPECT_EQ(read.at(name).scalar_type(), tensor.scalar_type()) << name;
    EXPECT_TRUE(at::equal(read.at(name), tensor)) << name;
  }
  EXPECT_EQ(ReadSafetensorsMetadata(folder / "a.safetensors").at("key"), "value");
}

TEST(SafetensorsTest, SameTensorsGiveSameBytes) {
  const TempFolder folder;
  const TensorMap tensors = {{"b", at::ones({3})}, {"a", at::zeros({2}, at::kHalf)}};
  WriteSafetensors(folder / "1", tensors, {{"x", "1"}, {"y", "2"}});
  WriteSafetensors(folder / "2", tensors, {{"y", "2"}, {"x", "1"}});
  EXPECT_EQ(ReadFileToString(folder / "1"), ReadFileToString(folder / "2"));
}

TEST(SafetensorsTest, WritingToATensorDoesNotReachTheFile) {
  const TempFolder folder;
  WriteSafetensors(folder / "a", {{"x", at::zeros({4})}});
  ReadSafetensors(folder / "a").at("x").fill_(7);
  EXPECT_EQ(ReadSafetensors(folder / "a").at("x").sum().item<float>(), 0);
}

TEST(SafetensorsTest, TensorsOutliveTheMap) {
  const TempFolder folder;
  WriteSafetensors(folder / "a", {{"x", at::ones({1000})}});
  at::Tensor x = ReadSafetensors(folder / "a").at("x");
  std::filesystem::remove(folder / "a");
  EXPECT_EQ(x.sum().item<float>(), 1000);
}

TEST(SafetensorsTest, FailedWriteLeavesTheOldFileAndNothingElse) {
  const TempFolder folder;
  WriteSafetensors(folder / "a", {{"x", at::ones({1})}});
  EXPECT_THROW(WriteSafetensors(folder / "a", {{"x", at::ones({1})}, {"bad", at::Tensor()}}),
               Error);
  EXPECT_THROW(WriteSafetensors(folder / "none/a", {{"x", at::ones({1})}}), Error);
  EXPECT_EQ(ReadSafetensors(folder / "a").size(), 1u);
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    files += entry.exists();
  }
  EXPECT_EQ(files, 1);
}

TEST(SafetensorsTest, TruncatedFileStatesBothSizes) {
  const TempFolder folder;
  WriteSafetensors(folder / "a", {{"x", at::ones({100})}});
  const std::string bytes = ReadFileToString(folder / "a");
  const std::string cut = folder.Write("cut", bytes.substr(0, bytes.size() - 10));
  EXPECT_THAT(MessageOf([&] { ReadSafetensors(cut); }),
              AllOf(HasSubstr(cut), HasSubstr("truncated"),
                    HasSubstr("expected " + std::to_string(bytes.size())),
                    HasSubstr("found " + std::to_string(bytes.size() - 10))));
  EXPECT_THAT(MessageOf([&] { ReadSafetensors(folder.Write("b", bytes.substr(0, 20))); }),
              HasSubstr("truncated"));
  EXPECT_THAT(MessageOf([&] { ReadSafetensors(folder.Write("c", "123")); }),
              HasSubstr("too short"));
  EXPECT_THAT(MessageOf([&] { ReadSafetensors(folder.Write("d", bytes + "x")); }),
              HasSubstr("belong to no tensor"));
}

TEST(SafetensorsTest, OnlyRegularFilesAreOpened) {
  const TempFolder folder;
  EXPECT_THAT(MessageOf([&] { ReadSafetensors(folder / "none"); }), HasSubstr("cannot be opened"));
  EXPECT_THAT(MessageOf([&] { ReadSafetensors(folder.path()); }), HasSubstr("not a regular file"));
  ::mkfifo((folder / "pipe").c_str(), 0600);
  EXPECT_THAT(MessageOf([&] { ReadSafetensors(folder / "pipe"); }),
              HasSubstr("not a regular file"));
  EXPECT_THAT(MessageOf([&] { ReadSafetensors(folder.Write("hostile", File("[]", ""))); }),
              AllOf(HasSubstr(folder / "hostile"), HasSubstr("not a JSON object")));
}

TEST(SafetensorsTest, UnalignedAndEmptyTensorsAreRead) {
  const TempFolder folder;
  const float one = 1;
  const std::string data(reinterpret_cast<const char*>(&one), sizeof one);
  const TensorMap tensors = ReadSafetensors(
      folder.Write("x", File(R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                             R"("x":{"dtype":"F32","shape":[1],"data_offsets":[1,5]},)"
                             R"("e":{"dtype":"F32","shape":[2,0],"data_offsets":[5,5]}})",
                             "\7" + data)));
  EXPECT_EQ(tensors.at("b").item<uint8_t>(), 7);
  EXPECT_EQ(tensors.at("x").item<float>(), 1);
  EXPECT_EQ(tensors.at("e").sizes(), at::IntArrayRef({2, 0}));
}

TEST(SafetensorsTest, EightBitFloatsAreRead) {
  const TempFolder folder;
  const at::Tensor x = at::tensor({1.0F, -0.5F, 8.0F});
  WriteSafetensors(folder / "a",
                   {{"m3", x.to(at::kFloat8_e4m3fn)}, {"m2", x.to(at::kFloat8_e5m2)}});
  for (const auto& [name, tensor] : ReadSafetensors(folder / "a")) {
    EXPECT_TRUE(at::equal(tensor.to(at::kFloat), x)) << name;
  }
}

// Whatever of a damaged file is believed can be read to its last byte.
TEST(SafetensorsTest, DamagedFilesAreReadOrRefused) {
  const TempFolder folder;
  WriteSafetensors(folder / "a", {{"x", at::ones({3, 5})}, {"y", at::ones({7}, at::kHalf)}});
  const std::string whole = ReadFileToString(folder / "a");
  std::mt19937_64 random(5);
  const int64_t before = PeakMemory();
  int read = 0;
  for (int i = 0; i < 1000; ++i) {
    std::string bytes = whole;
    for (uint64_t changes = random() % 3 + 1; changes > 0; --changes) {
      bytes[random() % 190] = static_cast<char>(random() % 2 ? '0' + random() % 10 : random());
    }
    if (random() % 8 == 0) bytes.resize(random() % bytes.size());
    try {
      for (const auto& [name, tensor] : ReadSafetensors(folder.Write("b", bytes))) {
        if (tensor.numel() > 0) at::sum(tensor.view(-1).view(at::kByte)).item();
      }
      ++read;
    } catch (const Error&) {
    }
  }
  EXPECT_GT(read, 10);
  ExpectPeakGrowthBelow(before, 64 << 20);
}

TEST(SafetensorsTest, VariantsAreFound) {
  const TempFolder folder;
  const auto write = [&](const std::string& file, float value) {
    WriteSafetensors(folder / file, {{"a", at::full({1}, value)}});
  };
  const auto value = [&](const std::string& variant = "") {
    return ReadSafetensorsFolder(folder.path(), "m", variant).at("a").item<float>();
  };
  folder.Write("m.bin", "");
  EXPECT_THAT(MessageOf([&] { value(); }),
              AllOf(HasSubstr("m.safetensors: no such file"),
                    HasSubstr("m.bin is not read: convert it to safetensors")));
  write("m.fp16.safetensors", 16);
  EXPECT_EQ(value(), 16);
  EXPECT_EQ(value("fp16"), 16);
  EXPECT_THAT(MessageOf([&] { value("bf16"); }),
              HasSubstr("has no variant \"bf16\" of m.safetensors (it has fp16)"));
  write("m.non_ema-00001-of-00001.safetensors", 7);
  EXPECT_EQ(value(), 16);
  folder.Write("m.safetensors.index.non_ema.json",
               R"({"weight_map":{"a":"m.non_ema-00001-of-00001.safetensors"}})");
  EXPECT_EQ(value("non_ema"), 7);
  EXPECT_THAT(MessageOf([&] { value(); }),
              HasSubstr("several variants of m.safetensors (fp16, non_ema) and no plain one: "
                        "--variant chooses"));
  write("m.safetensors", 32);
  EXPECT_EQ(value(), 32);
  // As diffusers and transformers choose between a file and an index.
  write("shard", 64);
  folder.Write("m.safetensors.index.json", R"({"weight_map":{"a":"shard"}})");
  EXPECT_EQ(value(), 64);
  write("model.safetensors", 1);
  folder.Write("model.safetensors.index.json", R"({"weight_map":{"a":"shard"}})");
  EXPECT_EQ(ReadSafetensorsFolder(folder.path(), "model").at("a").item<float>(), 1);
}

TEST(SafetensorsTest, SymbolicLinksAreFollowed) {
  const TempFolder folder;
  WriteSafetensors(folder / "blob", {{"a", at::ones({1})}});
  std::filesystem::create_symlink("blob", folder / "m.safetensors");
  EXPECT_EQ(ReadSafetensorsFolder(folder.path(), "m").size(), 1u);
}

TEST(SafetensorsTest, ReleasedPagesComeBackUnlessWritten) {
  const TempFolder folder;
  constexpr int64_t kCount = 64 << 20 >> 2;
  WriteSafetensors(folder / "a", {{"x", at::ones({kCount})}});
  const at::Tensor x = ReadSafetensors(folder / "a").at("x");
  EXPECT_TRUE(IsMapped(x));
  EXPECT_TRUE(IsMapped(x.narrow(0, 5, 7)));
  EXPECT_FALSE(IsMapped(x.clone()));
  EXPECT_FALSE(IsMapped(at::Tensor()));
  EXPECT_EQ(x.sum().item<float>(), kCount);
  const int64_t resident = ResidentMemory();
  x[kCount / 2] = 5;
  ReleasePages(x);
  EXPECT_LT(ResidentMemory(), resident - (48 << 20));
  EXPECT_EQ(x[kCount / 2].item<float>(), 5);
  EXPECT_EQ(x[1].item<float>(), 1);
  at::Tensor other = at::ones({kCount});
  ReleasePages(other);
  ReleasePages(at::Tensor());
  EXPECT_EQ(other[7].item<float>(), 1);
}

TEST(ParameterReaderTest, SharesTheFileWhereItMay) {
  const TempFolder folder;
  WriteSafetensors(folder / "a", {{"x", at::ones({2000})}, {"h", at::ones({2000}, at::kHalf)}});
  const TensorMap tensors = ReadSafetensors(folder / "a");
  LoadOptions shared;
  shared.share_file = true;
  ParameterReader reader(tensors, "net", shared);
  EXPECT_EQ(reader.Take("x", {2000}).const_data_ptr(), tensors.at("x").const_data_ptr());
  EXPECT_FALSE(IsMapped(reader.Take("h", {2000})));
  EXPECT_EQ(reader.Take("h", {2000}).scalar_type(), at::kFloat);

  ParameterReader copier(tensors, "net", {});
  at::Tensor copy = copier.Take("x", {2000});
  EXPECT_FALSE(IsMapped(copy));
  copy.fill_(3);
  EXPECT_EQ(tensors.at("x")[0].item<float>(), 1);

  // What no file holds is never shared.
  const TensorMap made = {{"x", at::ones({2})}};
  ParameterReader other(made, "net", shared);
  EXPECT_NE(other.Take("x", {2}).const_data_ptr(), made.at("x").const_data_ptr());
}

TEST(ParameterReaderTest, EveryTensorThatDoesNotFitIsListed) {
  TensorMap tensors = {{"wrong", at::ones({2})}, {"whole", at::ones({2}, at::kLong)}};
  for (int i = 0; i < 60; ++i) tensors["extra" + std::to_string(100 + i)] = at::ones({1});
  ParameterReader reader(tensors, "the/folder", {});
  for (const char* name : {"b", "a"}) reader.Take(name, {1});
  reader.Take("wrong", {3});
  reader.Take("whole", {2});
  EXPECT_THAT(MessageOf([&] { reader.Finish(); }),
              AllOf(HasSubstr("the/folder: parameters do not fit the config: 2 missing (a, b); "
                              "2 wrong (whole is I64, not floating point, wrong is [2], not [3]); "
                              "60 unexpected (extra100, extra101, "),
                    HasSubstr("extra149 and 10 more)")));
}

TEST(SafetensorsTest, IndexedShardsAreChecked) {
  const TempFolder folder;
  WriteSafetensors(folder / "one.safetensors", {{"a", at::ones({1})}});
  auto read = [&](const std::string& index) {
    folder.Write("m.safetensors.index.json", index);
    return ReadSafetensorsFolder(folder.path(), "m");
  };
  EXPECT_EQ(read(R"({"weight_map":{"a":"one.safetensors"}})").size(), 1u);
  EXPECT_THAT(MessageOf([&] { read(R"({"weight_map":{"b":"one.safetensors"}})"); }),
              HasSubstr("lacks tensor b"));
  EXPECT_THAT(MessageOf([&] { read(R"({"weight_map":{"b":"../one.safetensors"}})"); }),
              HasSubstr("not a plain file name"));
  EXPECT_THAT(MessageOf([&] { read(R"({})"); }), HasSubstr("weight_map"));
  EXPECT_THAT(MessageOf([&] { ReadSafetensorsFolder(folder.path(), "other"); }),
              HasSubstr("no such file"));
}

}  // namespace
}  // namespace d2g::model
