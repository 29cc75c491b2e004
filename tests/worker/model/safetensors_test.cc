#include "worker/model/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/worker/model/temp_folder.h"
#include "worker/model/error.h"
#include "worker/model/json_config.h"

namespace d2g::model {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string File(const std::string& header, const std::string& data,
                 std::optional<uint64_t> stated = std::nullopt) {
  const uint64_t length = stated.value_or(header.size());
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

TEST(SafetensorsTest, HostileHeadersAreRefused) {
  const TempFolder folder;
  const std::string four(4, '\0'), eight(8, '\0');
  const struct {
    std::string bytes;
    const char* message;
  } kCases[] = {
      {File("{}", "", ~uint64_t{0}), "over the limit"},
      {File("{}", "", 1000), "truncated"},
      {File("{", ""), "not valid JSON"},
      {File("[]", ""), "not a JSON object"},
      {File(R"({"x":{"dtype":"F32"}})", ""), "needs dtype, shape and data_offsets"},
      {File(R"({"x":{"dtype":"F8","shape":[1],"data_offsets":[0,4]}})", four), "is not one of"},
      {File(R"({"x":{"dtype":7,"shape":[1],"data_offsets":[0,4]}})", four), "is not one of"},
      {File(R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", four), "do not hold"},
      {File(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", four), "do not hold"},
      {File(R"({"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", four),
       "not a whole number"},
      {File(R"({"x":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", four),
       "not a whole number"},
      {File(R"({"x":{"dtype":"F32","shape":[4611686018427387904,16],"data_offsets":[0,4]}})", four),
       "too large"},
      {File(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", four), "not a pair"},
      {File(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
            R"("y":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
            eight),
       "x and y overlap"},
      {File(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", eight), "hole of 4 bytes"},
      {File(R"({"__metadata__":{"a":1}})", ""), "is not a string"},
  };
  for (const auto& item : kCases) {
    const std::string path = folder.Write("x.safetensors", item.bytes);
    EXPECT_THAT(MessageOf([&] { ReadSafetensors(path); }),
                AllOf(HasSubstr(path), HasSubstr(item.message)));
  }
  EXPECT_THAT(MessageOf([&] { ReadSafetensors(folder / "none"); }), HasSubstr("cannot be opened"));
  EXPECT_THAT(MessageOf([&] { ReadSafetensors(folder.path()); }), HasSubstr("not a regular file"));
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
