// The subcommands that run networks: generate, teacher, component, model. The work is d2g-model's,
// which loads LibTorch; this program only becomes it.
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"
#include "cli/command.h"
#include "cli/exit_code.h"
#include "cli/own_folder.h"
#include "model/folder/model_folder.h"

namespace d2g::cli {
namespace {

absl::StatusOr<int> BecomeModelProgram(std::vector<std::string> arguments) {
  const std::string program = OwnFolder() + "/d2g-model";
  std::vector<char*> argv = {const_cast<char*>(program.c_str())};
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  execv(program.c_str(), argv.data());
  return absl::InternalError(absl::StrCat("cannot run ", program, ": ", std::strerror(errno),
                                          "; d2g and d2g-model belong in one folder"));
}

// A subcommand whose every argument is d2g-model's business, --help too.
void AddPassedOn(CLI::App& app, Action* action, const std::string& name,
                 const std::string& description) {
  CLI::App* command = app.add_subcommand(name, description);
  command->set_help_flag("");
  command->prefix_command();
  command->callback([command, action, name] {
    std::vector<std::string> arguments = command->remaining();
    arguments.insert(arguments.begin(), name);
    *action = [arguments] { return BecomeModelProgram(arguments); };
  });
}

struct InspectFlags {
  std::string folder;
  bool no_digest = false;
  bool json = false;
};

absl::StatusOr<int> Inspect(const InspectFlags& flags) {
  std::vector<std::string> arguments = {"inspect", flags.folder};
  if (flags.json) arguments.emplace_back("--json");
  if (!flags.no_digest) {
    // A folder without one is not a teacher; the inspection says what it is.
    const auto folder = model::InspectModelFolder(flags.folder);
    if (folder.ok()) arguments.insert(arguments.end(), {"--digest", folder->digest});
  }
  return BecomeModelProgram(std::move(arguments));
}

void AddInspect(CLI::App& model, Action* action) {
  auto flags = std::make_shared<InspectFlags>();
  CLI::App* inspect = model.add_subcommand(
      "inspect", "What a model folder is, its sizes and options, and whether d2g runs it");
  inspect
      ->add_option("DIR", flags->folder, "Model folder in the diffusers layout, or one component")
      ->required();
  inspect->add_flag("--no-digest", flags->no_digest,
                    "Leave out the digest, for which all weights are read");
  inspect->add_flag("--json", flags->json, "Print JSON");
  inspect->callback([flags, action] { *action = [flags] { return Inspect(*flags); }; });
}

}  // namespace

void AddModelCommands(CLI::App& app, Action* action) {
  AddPassedOn(app, action, "generate",
              "Make pictures with a model folder (d2g generate --help lists its flags)");
  AddPassedOn(app, action, "teacher", "Integrate noise to latents with a model folder");
  AddPassedOn(app, action, "component", "Run one network of a model folder on tensors from a file");
  CLI::App* model = app.add_subcommand("model", "Look at a model folder");
  model->require_subcommand(1);
  AddInspect(*model, action);
  AddPassedOn(*model, action, "check",
              "Try a teacher before spending GPUs on it: finite, decoded, noise floor, speed");
}

}  // namespace d2g::cli
