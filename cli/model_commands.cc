// The subcommands that run networks: generate, teacher, component, model, doctor. The work is
// d2g-model's, which loads LibTorch; this program only becomes it.
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "cli/command.h"
#include "cli/exit_code.h"
#include "cli/own_folder.h"

namespace d2g::cli {
namespace {

absl::StatusOr<int> BecomeModelProgram(const char* command,
                                       const std::vector<std::string>& arguments) {
  const std::string program = OwnFolder() + "/d2g-model";
  std::vector<char*> argv = {const_cast<char*>(program.c_str()), const_cast<char*>(command)};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  execv(program.c_str(), argv.data());
  return absl::InternalError(absl::StrCat("cannot run ", program, ": ", std::strerror(errno),
                                          "; d2g and d2g-model belong in one folder"));
}

struct ModelCommand {
  const char* name;
  const char* description;
};

constexpr ModelCommand kCommands[] = {
    {"generate", "Make pictures with a model folder (d2g generate --help lists its flags)"},
    {"teacher", "Integrate noise to latents with a model folder"},
    {"component", "Run one network of a model folder on tensors from a file"},
};

}  // namespace

void AddModelCommands(CLI::App& app, Action* action) {
  for (const ModelCommand& command : kCommands) {
    CLI::App* sub = app.add_subcommand(command.name, command.description);
    // Every argument is d2g-model's business, --help too.
    sub->set_help_flag("");
    sub->prefix_command();
    sub->callback([sub, action, name = command.name] {
      const std::vector<std::string> arguments = sub->remaining();
      *action = [name, arguments] { return BecomeModelProgram(name, arguments); };
    });
  }
}

}  // namespace d2g::cli
