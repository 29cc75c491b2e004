#include "model/png.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <png.h>

#include "model/files/json_config.h"
#include "tests/model/temp_folder.h"

namespace d2g::model {
namespace {

using ::testing::HasSubstr;

at::Tensor ReadPng(const std::string& path, int64_t channels) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  EXPECT_NE(png_image_begin_read_from_file(&image, path.c_str()), 0) << image.message;
  image.format = channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
  at::Tensor pixels = at::zeros({image.height, image.width, channels}, at::kByte);
  EXPECT_NE(png_image_finish_read(&image, nullptr, pixels.data_ptr(), 0, nullptr), 0);
  return pixels;
}

TEST(PngTest, ReadsBack) {
  const TempFolder folder;
  for (const int64_t channels : {1, 3}) {
    const at::Tensor picture = at::randint(0, 256, {5, 7, channels}, at::kByte);
    WritePng(folder / "a.png", picture);
    EXPECT_TRUE(at::equal(ReadPng(folder / "a.png", channels), picture));
    WritePng(folder / "b.png", picture);
    EXPECT_EQ(ReadFileToString(folder / "a.png"), ReadFileToString(folder / "b.png"));
  }
}

TEST(PngTest, BadPicturesAndPathsAreNamed) {
  const TempFolder folder;
  const std::string path = folder / "a.png";
  EXPECT_THAT(MessageOf([&] {
                WritePng(path, at::zeros({5, 7, 2}, at::kByte));
              }),
              HasSubstr("[5, 7, 2]"));
  EXPECT_THAT(MessageOf([&] { WritePng(path, at::zeros({5, 7, 3})); }), HasSubstr("Float"));
  EXPECT_THAT(MessageOf([&] {
                WritePng(folder / "no/a.png", at::zeros({5, 7, 3}, at::kByte));
              }),
              HasSubstr("no/a.png"));
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(PngTest, GridKeepsOrderAndGaps) {
  at::Tensor pictures = at::zeros({5, 2, 3, 1}, at::kByte);
  for (int64_t i = 0; i < 5; ++i) pictures[i].fill_(10 * (i + 1));
  const at::Tensor grid = MakeGrid(pictures, /*columns=*/2, /*gap=*/1);
  EXPECT_EQ(grid.sizes(), at::IntArrayRef({8, 7, 1}));
  EXPECT_EQ(grid[2].min().item<int>(), 255);
  EXPECT_EQ(grid.select(1, 3).min().item<int>(), 255);
  EXPECT_EQ(grid[0][0].item<int>(), 10);
  EXPECT_EQ(grid[1][6].item<int>(), 20);
  EXPECT_EQ(grid[7][2].item<int>(), 50);
  EXPECT_EQ(grid[7][4].item<int>(), 255);  // no sixth picture
  EXPECT_TRUE(at::equal(MakeGrid(pictures.slice(0, 0, 1), 1), pictures[0]))
      << "a single picture has no frame";
  EXPECT_THAT(MessageOf([&] { MakeGrid(pictures, 0); }), HasSubstr("columns is 0"));
}

}  // namespace
}  // namespace d2g::model
