#include "model/png.h"

#include <png.h>

#include <csetjmp>
#include <string>
#include <vector>

#include "model/files/error.h"
#include "services/files/file_writer.h"

namespace d2g::model {

namespace {

constexpr int64_t kMaxSide = 1 << 20;

void AppendBytes(png_structp png, png_bytep data, png_size_t size) {
  static_cast<std::string*>(png_get_io_ptr(png))->append(reinterpret_cast<char*>(data), size);
}

void IgnoreFlush(png_structp) {}

// Encodes; an empty string means that libpng failed. No object with a destructor lives between
// setjmp and a possible longjmp.
bool Encode(std::vector<png_bytep>& rows, uint32_t width, uint32_t height, int colour,
            std::string& out) {
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  if (png == nullptr) return false;
  png_infop info = png_create_info_struct(png);
  if (info == nullptr || setjmp(png_jmpbuf(png)) != 0) {
    png_destroy_write_struct(&png, &info);
    return false;
  }
  png_set_write_fn(png, &out, AppendBytes, IgnoreFlush);
  png_set_IHDR(png, info, width, height, 8, colour, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_BASE,
               PNG_FILTER_TYPE_BASE);
  png_write_info(png, info);
  png_write_image(png, rows.data());
  png_write_end(png, nullptr);
  png_destroy_write_struct(&png, &info);
  return true;
}

void CheckPictures(const std::string& what, const at::Tensor& pictures, int64_t dims) {
  if (pictures.dim() != dims || pictures.scalar_type() != at::kByte ||
      (pictures.size(-1) != 1 && pictures.size(-1) != 3) || pictures.numel() == 0 ||
      pictures.size(-2) > kMaxSide || pictures.size(-3) > kMaxSide) {
    Fail(what, ": picture is ", pictures.scalar_type(), " ", pictures.sizes(),
         ", not uint8 [H, W, 1 or 3] with sides up to ", kMaxSide);
  }
}

}  // namespace

void WritePng(const std::string& path, const at::Tensor& picture) {
  CheckPictures(path, picture, 3);
  const at::Tensor pixels = picture.to(at::kCPU).contiguous();
  const int64_t stride = pixels.size(1) * pixels.size(2);
  std::vector<png_bytep> rows;
  for (int64_t y = 0; y < pixels.size(0); ++y) {
    rows.push_back(const_cast<png_bytep>(pixels.const_data_ptr<uint8_t>()) + y * stride);
  }
  std::string bytes;
  if (!Encode(rows, static_cast<uint32_t>(pixels.size(1)), static_cast<uint32_t>(pixels.size(0)),
              pixels.size(2) == 1 ? PNG_COLOR_TYPE_GRAY : PNG_COLOR_TYPE_RGB, bytes)) {
    Fail(path, ": libpng could not encode the picture");
  }
  WithIoErrors([&] {
    files::FileWriter file(path);
    file.Append(bytes.data(), bytes.size());
    file.Commit();
  });
}

at::Tensor MakeGrid(const at::Tensor& pictures, int64_t columns, int64_t gap) {
  CheckPictures("grid", pictures, 4);
  if (columns < 1) Fail("columns is ", columns, ", must be at least 1");
  if (gap < 0) Fail("gap is ", gap, ", must be at least 0");
  const int64_t count = pictures.size(0), height = pictures.size(1), width = pictures.size(2);
  const int64_t used = std::min(columns, count), rows = (count + used - 1) / used;
  at::Tensor grid = at::full(
      {rows * (height + gap) - gap, used * (width + gap) - gap, pictures.size(3)}, 255, at::kByte);
  for (int64_t i = 0; i < count; ++i) {
    grid.narrow(0, i / used * (height + gap), height)
        .narrow(1, i % used * (width + gap), width)
        .copy_(pictures[i]);
  }
  return grid;
}

}  // namespace d2g::model
