#include "tests/testing/torch/tiny_teacher.h"

#include "model/config/clip_text_config.h"
#include "model/config/unet_parameters.h"
#include "model/config/vae_parameters.h"
#include "model/weights/random_weights.h"
#include "model/weights/safetensors.h"
#include "tests/testing/tiny_folder.h"

namespace d2g::testing {

void WriteTinyTeacher(const std::string& folder, uint64_t seed) {
  WriteTinyFolder(folder);
  const auto write = [&](const std::string& file, uint64_t own_seed,
                         const model::ShapeMap& shapes) {
    model::WriteSafetensors(folder + file, model::RandomParameters(own_seed, shapes));
  };
  write("/unet/diffusion_pytorch_model.safetensors", seed,
        model::UNetParameters(model::UNetConfig::FromFile(folder + "/unet/config.json")));
  write("/text_encoder/model.safetensors", seed + 1,
        model::ClipTextParameters(
            model::ClipTextConfig::FromFile(folder + "/text_encoder/config.json")));
  write("/vae/diffusion_pytorch_model.safetensors", seed + 2,
        model::VaeParameters(model::AutoencoderConfig::FromFile(folder + "/vae/config.json")));
}

}  // namespace d2g::testing
