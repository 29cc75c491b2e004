// How much memory the real d2g-model program needs for its weights.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/files/json_config.h"
#include "model/network/autoencoder_tiny.h"
#include "model/weights/random_weights.h"
#include "tests/model/run_tool.h"
#include "tests/model/temp_folder.h"

namespace d2g::model {
namespace {

// Writes a network whose encoder has `blocks` blocks of `width` channels; returns the bytes of its
// parameters in fp32.
int64_t WriteModel(const TempFolder& folder, int64_t width, int64_t blocks, at::ScalarType dtype) {
  const nlohmann::json config = {{"_class_name", "AutoencoderTiny"},
                                 {"encoder_block_out_channels", {width}},
                                 {"decoder_block_out_channels", {4}},
                                 {"num_encoder_blocks", {blocks}},
                                 {"num_decoder_blocks", {0}}};
  const std::string path = folder.Write("vae/config.json", config.dump());
  TensorMap tensors;
  int64_t bytes = 0;
  for (const auto& [name, shape] :
       AutoencoderTiny::ParameterShapes(AutoencoderTinyConfig::FromFile(path))) {
    tensors[name] = at::full(shape, 0.001, at::TensorOptions().dtype(dtype));
    bytes += tensors[name].numel() * static_cast<int64_t>(sizeof(float));
  }
  WriteSafetensors(folder / "vae/diffusion_pytorch_model.safetensors", tensors);
  WriteSafetensors(folder / "in", {{"image", at::zeros({1, 3, 4, 4})}});
  return bytes;
}

// The peak that the program states, bytes.
int64_t PeakOfEncoder(const TempFolder& folder) {
  const std::string output =
      RunTool({"component", "--component", "vae_encoder", "--threads", "1", "--model",
               folder.path(), "--inputs", folder / "in", "--outputs", folder / "out"})
          .output;
  const std::string label = "peak memory ";
  const size_t at = output.find(label);
  EXPECT_NE(at, std::string::npos) << output;
  return at == std::string::npos ? 0 : std::stoll(output.substr(at + label.size())) << 20;
}

TEST(WeightsMemoryTest, LoadingPeaksLittleAboveTheWeights) {
  constexpr int64_t kSmallChange = 16 << 20;  // activations, heap
  const TempFolder small;
  WriteModel(small, 8, 1, at::kFloat);
  const int64_t base = PeakOfEncoder(small);
  for (const at::ScalarType dtype : {at::kFloat, at::kHalf, at::kBFloat16}) {
    const TempFolder folder;
    const int64_t bytes = WriteModel(folder, 512, 8, dtype);
    ASSERT_GT(bytes, 200 << 20);
    const int64_t grown = PeakOfEncoder(folder) - base;
    RecordProperty(c10::toString(dtype), std::to_string(static_cast<double>(grown) / bytes));
    EXPECT_LT(grown, bytes * 115 / 100 + kSmallChange) << c10::toString(dtype);
    EXPECT_GT(grown, bytes / 2) << "the weights were not used";
  }
}

}  // namespace
}  // namespace d2g::model
