// d2g-model teacher: prompts and noise to latents, with the scheduler's options as the file has
// them.
#include <iostream>
#include <memory>

#include "model/png.h"
#include "model/tool/commands.h"
#include "model/tool/run_options.h"

namespace d2g::model {

namespace {

struct TeacherOptions {
  RunOptions run;
  std::string out;
  std::string png;
};

void Teach(const TeacherOptions& options) {
  CheckOutputs({{"--out", options.out, true},
                {.flag = "--png", .path = options.png, .is_picture = true},
                {"--save-noise", options.run.save_noise}});
  ModelOptions model_options = ToModelOptions(options.run);
  model_options.load_vae = !options.png.empty();
  model_options.pipeline_scheduler_overrides = false;
  const TextToImageModel model = TextToImageModel::Load(options.run.model, model_options);
  const Run run = Solve(model, options.run);
  at::Tensor grid;
  if (!options.png.empty()) {
    grid = PictureGrid(TextToImageModel::ToBytes(model.DecodeToImages(run.latents)));
  }
  SaveNoise(run, options.run);
  WriteSafetensors(options.out, {{"noise", run.noise}, {"latents", run.latents}});
  if (grid.defined()) WritePng(options.png, grid);
  std::cout << options.out << ": " << run.latents.size(0) << " latents, " << run.steps << " steps, "
            << run.seconds << " s\n";
}

}  // namespace

void AddTeacher(CLI::App& app, Action* action) {
  auto options = std::make_shared<TeacherOptions>();
  CLI::App* command =
      app.add_subcommand("teacher", "Integrate noise to latents (scaled, as the U-Net sees them)");
  AddRunFlags(*command, &options->run);
  command->add_option("--out", options->out, "Safetensors file to write: noise and latents")
      ->required();
  command->add_option("--png", options->png, "Decode the latents too: PNG file to write");
  command->callback([options, action] { *action = [options] { Teach(*options); }; });
}

}  // namespace d2g::model
