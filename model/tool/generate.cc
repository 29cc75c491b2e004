// d2g-model generate: prompts and noise to a grid of pictures.
#include <iostream>
#include <memory>

#include "model/png.h"
#include "model/tool/commands.h"
#include "model/tool/run_options.h"

namespace d2g::model {

namespace {

struct GenerateOptions {
  RunOptions run;
  std::string out;
  std::string save_latents;
  int64_t columns = 0;
  int64_t gap = 2;
};

void Generate(const GenerateOptions& options) {
  CheckOutputs({{.flag = "--out", .path = options.out, .required = true, .is_picture = true},
                {"--save-noise", options.run.save_noise},
                {"--save-latents", options.save_latents}});
  const TextToImageModel model =
      TextToImageModel::Load(options.run.model, ToModelOptions(options.run));
  const Run run = Solve(model, options.run);
  const at::Tensor pictures = TextToImageModel::ToBytes(model.DecodeToImages(run.latents));
  const int64_t count = pictures.size(0);
  SaveNoise(run, options.run);
  if (!options.save_latents.empty()) {
    WriteSafetensors(options.save_latents, {{"latents", run.latents}});
  }
  WritePng(options.out, PictureGrid(pictures, options.columns, options.gap));
  std::cout << options.out << ": " << count << (count == 1 ? " picture" : " pictures") << " of "
            << pictures.size(2) << "x" << pictures.size(1) << ", " << run.steps
            << (run.steps == 1 ? " step" : " steps") << ", ";
  if (run.guidance > 1) {
    std::cout << "guidance " << run.guidance;
  } else {
    std::cout << "no guidance";
  }
  std::cout << ", " << run.seconds << " s\n";
}

}  // namespace

void AddGenerate(CLI::App& app, Action* action) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App* command = app.add_subcommand("generate", "Make pictures with a model folder");
  AddRunFlags(*command, &options->run);
  command->add_option("--out", options->out, "PNG file to write")->required();
  command->add_option("--columns", options->columns, "Columns of the grid (default: about square)")
      ->check(WholeNumber(1, 4096));
  command->add_option("--gap", options->gap, "White pixels between pictures")
      ->check(WholeNumber(0, 256));
  command->add_option("--save-latents", options->save_latents,
                      "Write the latents (scaled) to this safetensors file");
  command->callback([options, action] { *action = [options] { Generate(*options); }; });
}

}  // namespace d2g::model
