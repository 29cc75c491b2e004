// d2g-model teacher: prompts and noise to latents, as a simulation worker computes them.
#include <iostream>
#include <memory>

#include "worker/model/tool/commands.h"
#include "worker/model/tool/run_options.h"

namespace d2g::model {

namespace {

struct TeacherOptions {
  RunOptions run;
  std::string out;
};

void Teach(const TeacherOptions& options) {
  CheckOutputs({{"--out", options.out, true}, {"--save-noise", options.run.save_noise}});
  ModelOptions model_options = ToModelOptions(options.run);
  model_options.load_vae = false;
  const TextToImageModel model = TextToImageModel::Load(options.run.model, model_options);
  const Run run = Solve(model, options.run);
  SaveNoise(run, options.run);
  WriteSafetensors(options.out, {{"noise", run.noise}, {"latents", run.latents}});
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
  command->callback([options, action] { *action = [options] { Teach(*options); }; });
}

}  // namespace d2g::model
