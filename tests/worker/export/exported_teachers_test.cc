// Exports of teachers that are stored in other ways than the usual one: whatever the teacher's
// folder looks like, every version of diffusers and transformers loads the student's as it is.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/folder/model_folder.h"
#include "model/weights/safetensors.h"
#include "services/common/file_io.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/torch/tiny_teacher.h"
#include "tests/worker/export/student.h"
#include "worker/export/export.h"

namespace d2g::exporter {
namespace {

namespace fs = std::filesystem;
using d2g::testing::IsOk;
using d2g::testing::TempDir;
using nlohmann::json;
using ::testing::UnorderedElementsAre;

class ExportedTeachersTest : public ::testing::Test {
 protected:
  ExportedTeachersTest() { d2g::testing::WriteTinyTeacher(Teacher("")); }

  std::string Teacher(const std::string& name) const { return dir_.File("teacher/" + name); }
  std::string Exported(const std::string& name) const { return dir_.File("export/" + name); }

  // Exports a student of the teacher as it is now, and compares it in diffusers.
  void Export() {
    const auto teacher = model::InspectModelFolder(dir_.File("teacher"));
    ASSERT_THAT(teacher, IsOk());
    WriteStudent(dir_.File("teacher"), dir_.File("checkpoint"), 7);
    lease::TaskContext context;
    ASSERT_THAT(RunExport(MakeWork(*teacher, dir_.path()), &context), IsOk());
    ExpectSameInDiffusers(Exported(""), dir_.path());
  }

  // Splits a component's weights into two shards with an index, of a variant.
  void Shard(const std::string& component, const std::string& stem, const std::string& variant) {
    const std::string folder = Teacher(component + "/");
    const std::string file = folder + stem + ".safetensors";
    const model::TensorMap tensors = model::ReadSafetensors(file);
    model::TensorMap shards[2];
    json map;
    const auto name = [&](int k) {
      return stem + "." + variant + "-0000" + std::to_string(k + 1) + "-of-00002.safetensors";
    };
    for (const auto& [tensor, values] : tensors) {
      const int k = static_cast<int>(shards[0].size() * 2 >= tensors.size());
      shards[k][tensor] = values.clone();
      map[tensor] = name(k);
    }
    for (int k = 0; k < 2; ++k) model::WriteSafetensors(folder + name(k), shards[k]);
    const json index = {{"metadata", {{"total_size", 1}}}, {"weight_map", map}};
    ASSERT_THAT(common::WriteFileAtomically(
                    folder + stem + ".safetensors.index." + variant + ".json", index.dump()),
                IsOk());
    fs::remove(file);
  }
  // The text encoder as transformers 5 saves it.
  void DropPrefix(const std::string& component) {
    const std::string file = Teacher(component + "/model.safetensors");
    const std::string prefix = "text_model.";
    model::TensorMap bare;
    for (const auto& [name, values] : model::ReadSafetensors(file)) {
      bare[name.starts_with(prefix) ? name.substr(prefix.size()) : name] = values.clone();
    }
    model::WriteSafetensors(file, bare, {{"format", "pt"}});
  }
  std::vector<std::string> FilesOf(const std::string& component) const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(Exported(component))) {
      names.push_back(entry.path().filename().string());
    }
    return names;
  }

  const TempDir dir_;
};

TEST_F(ExportedTeachersTest, VariantsGetTheirPlainNames) {
  for (const char* stem :
       {"unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"}) {
    fs::rename(Teacher(std::string(stem) + ".safetensors"),
               Teacher(std::string(stem) + ".fp16.safetensors"));
  }
  Export();
  EXPECT_THAT(FilesOf("text_encoder"), UnorderedElementsAre("config.json", "model.safetensors"));
  EXPECT_THAT(FilesOf("vae"),
              UnorderedElementsAre("config.json", "diffusion_pytorch_model.safetensors"));
  EXPECT_THAT(FilesOf("unet"),
              UnorderedElementsAre("config.json", "diffusion_pytorch_model.safetensors"));
  EXPECT_EQ(*common::ReadFile(Exported("text_encoder/model.safetensors")),
            *common::ReadFile(Teacher("text_encoder/model.fp16.safetensors")));
}

TEST_F(ExportedTeachersTest, ShardsOfAVariantDoToo) {
  Shard("unet", "diffusion_pytorch_model", "fp16");
  Shard("vae", "diffusion_pytorch_model", "fp16");
  Shard("text_encoder", "model", "fp16");
  Export();
  EXPECT_THAT(
      FilesOf("text_encoder"),
      UnorderedElementsAre("config.json", "model-00001-of-00002.safetensors",
                           "model-00002-of-00002.safetensors", "model.safetensors.index.json"));
  EXPECT_THAT(
      FilesOf("vae"),
      UnorderedElementsAre("config.json", "diffusion_pytorch_model-00001-of-00002.safetensors",
                           "diffusion_pytorch_model-00002-of-00002.safetensors",
                           "diffusion_pytorch_model.safetensors.index.json"));
}

TEST_F(ExportedTeachersTest, TheTextEncodersNamesAreThoseThatEveryVersionReads) {
  const model::TensorMap before = model::ReadSafetensors(Teacher("text_encoder/model.safetensors"));
  DropPrefix("text_encoder");
  Export();
  const model::TensorMap after = model::ReadSafetensors(Exported("text_encoder/model.safetensors"));
  ASSERT_EQ(after.size(), before.size());
  for (const auto& [name, values] : before) {
    ASSERT_TRUE(after.contains(name)) << name;
    EXPECT_TRUE(at::equal(after.at(name), values)) << name;
  }
  EXPECT_EQ(model::ReadSafetensorsMetadata(Exported("text_encoder/model.safetensors"))["format"],
            "pt");
}

TEST_F(ExportedTeachersTest, AlsoWhereTheyAreShardsOfAVariant) {
  DropPrefix("text_encoder");
  Shard("text_encoder", "model", "fp16");
  Export();
  const json index = ReadJson(Exported("text_encoder/model.safetensors.index.json"));
  for (const auto& [name, file] : index["weight_map"].items()) {
    EXPECT_TRUE(name.starts_with("text_model.")) << name;
  }
}

TEST_F(ExportedTeachersTest, AnOldTeachersSizeIsSaidSoThatDiffusersKeepsIt) {
  json config = ReadJson(Teacher("unet/config.json"));
  config["_diffusers_version"] = "0.7.0.dev0";
  ASSERT_THAT(common::WriteFileAtomically(Teacher("unet/config.json"), config.dump()), IsOk());
  const auto teacher = model::InspectModelFolder(dir_.File("teacher"));
  ASSERT_THAT(teacher, IsOk());
  Export();
  const json exported = ReadJson(Exported("unet/config.json"));
  EXPECT_EQ(exported["sample_size"], teacher->latent_height);
  EXPECT_EQ(exported["_diffusers_version"], "0.35.2");
  EXPECT_EQ(ReadJson(Exported("model_index.json"))["_diffusers_version"], "0.35.2");
  config["sample_size"] = exported["sample_size"];
  config["_diffusers_version"] = exported["_diffusers_version"];
  EXPECT_EQ(exported, config) << "all else is the teacher's";
}

TEST_F(ExportedTeachersTest, ASizeThatIsNoSquareIsSaidAsOne) {
  json config = ReadJson(Teacher("unet/config.json"));
  config["sample_size"] = {4, 8};
  ASSERT_THAT(common::WriteFileAtomically(Teacher("unet/config.json"), config.dump()), IsOk());
  Export();
  EXPECT_EQ(ReadJson(Exported("unet/config.json"))["sample_size"], json({4, 8}));
}

}  // namespace
}  // namespace d2g::exporter
