// Text encoder, autoencoder, scheduler and tokenizer against transformers and diffusers.
#include <ATen/core/grad_mode.h>

#include "model/files/json_config.h"
#include "model/network/autoencoder_kl.h"
#include "model/network/clip_text_model.h"
#include "model/solver/ddim_scheduler.h"
#include "model/tokenizer/clip_tokenizer.h"
#include "model/weights/random_weights.h"
#include "tests/model/golden.h"

namespace d2g::model {
namespace {

constexpr double kTolerance = 1e-4;

TEST(ClipTextGoldenTest, AgreesWithTransformers) {
  for (const std::string& name : GoldenCases("text")) {
    SCOPED_TRACE(name);
    const TensorMap golden = Golden(name);
    const ClipTextConfig config = ClipTextConfig::FromFile(GoldenFolder(name) + "/config.json");
    TensorMap parameters = RandomParameters(2, ClipTextModel::ParameterShapes(config));
    const ClipTextModel model(config, parameters);
    EXPECT_LE(RelativeDifference(model.Forward(golden.at("input_ids")), golden.at("output")),
              kTolerance);

    // Without the prefix, and with the buffer that old files carry.
    TensorMap unprefixed;
    for (const auto& [key, tensor] : parameters) unprefixed[key.substr(11)] = tensor;
    unprefixed["embeddings.position_ids"] = at::arange(config.max_position_embeddings);
    const at::NoGradGuard no_grad;
    EXPECT_LE(RelativeDifference(ClipTextModel(config, unprefixed).Forward(golden.at("input_ids")),
                                 golden.at("output")),
              kTolerance);
  }
}

TEST(AutoencoderGoldenTest, AgreesWithDiffusers) {
  for (const std::string& name : GoldenCases("vae")) {
    SCOPED_TRACE(name);
    const TensorMap golden = Golden(name);
    const AutoencoderConfig config =
        AutoencoderConfig::FromFile(GoldenFolder(name) + "/config.json");
    const TensorMap parameters = RandomParameters(3, AutoencoderKL::ParameterShapes(config));
    const AutoencoderKL model(config, parameters);
    const LatentDistribution latents = model.Encode(golden.at("pictures"));
    EXPECT_LE(RelativeDifference(latents.mean, golden.at("mean")), kTolerance);
    EXPECT_LE(RelativeDifference(latents.logvar, golden.at("logvar")), kTolerance);
    EXPECT_LE(RelativeDifference(model.Decode(golden.at("latents")), golden.at("decoded")),
              kTolerance);

    // The attention names of old files.
    TensorMap old;
    for (const auto& [key, tensor] : parameters) {
      std::string renamed = key;
      for (const auto& [now, before] : {std::pair<std::string, std::string>{".to_q.", ".query."},
                                        {".to_k.", ".key."},
                                        {".to_v.", ".value."},
                                        {".to_out.0.", ".proj_attn."}}) {
        const size_t at = renamed.find(now);
        if (at != std::string::npos) renamed.replace(at, now.size(), before);
      }
      old[renamed] = tensor;
    }
    const at::NoGradGuard no_grad;
    EXPECT_LE(RelativeDifference(AutoencoderKL(config, old).Decode(golden.at("latents")),
                                 golden.at("decoded")),
              kTolerance);
  }
}

at::Tensor FakeNetwork(const at::Tensor& z, int64_t timestep) {
  return 0.6 * z + 0.1 * (z * z - 0.5) + 0.0003 * static_cast<double>(timestep);
}

TEST(DdimGoldenTest, AgreesWithDiffusers) {
  for (const std::string& name : GoldenCases("ddim")) {
    SCOPED_TRACE(name);
    const TensorMap golden = Golden(name);
    const DdimScheduler scheduler(SchedulerConfig::FromFile(GoldenFolder(name) + "/config.json"));
    const at::Tensor bars = at::tensor(at::ArrayRef<float>(scheduler.alphas_cumprod()));
    EXPECT_LE(RelativeDifference(bars, golden.at("alphas_cumprod")), 1e-6);

    const at::Tensor& expected = golden.at("timesteps");
    const int64_t steps = expected.numel();
    const std::vector<int64_t> timesteps = scheduler.Timesteps(steps);
    ASSERT_EQ(static_cast<int64_t>(timesteps.size()), steps);
    at::Tensor z = golden.at("noise");
    for (int64_t i = 0; i < steps; ++i) {
      EXPECT_EQ(timesteps[i], expected[i].item<int64_t>()) << i;
      z = scheduler.Step(FakeNetwork(z, timesteps[i]), timesteps[i], z, steps);
      ASSERT_LE(RelativeDifference(z, golden.at("trajectory")[i]), 1e-4) << i;
    }
  }
}

TEST(ClipTokenizerGoldenTest, AgreesWithTransformers) {
  for (const std::string& name : GoldenCases("tokenizer")) {
    SCOPED_TRACE(name);
    const nlohmann::json golden = ReadJsonFile(GoldenFolder(name) + "/golden.json");
    const ClipTokenizer tokenizer = ClipTokenizer::Load(
        GoldenFolder(name),
        golden["fast"].get<bool>() ? TokenizerFlavour::kFast : TokenizerFlavour::kSlow);
    for (const nlohmann::json& item : golden["cases"]) {
      const auto prompt = item["prompt"].get<std::string>();
      EXPECT_EQ(tokenizer.Encode(prompt), item["ids"].get<std::vector<int64_t>>()) << prompt;
    }
  }
}

}  // namespace
}  // namespace d2g::model
