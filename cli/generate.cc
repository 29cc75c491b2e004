// d2g generate: pictures from a model folder. The work is d2g-model's, which loads LibTorch; this
// program only becomes it.
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "cli/command.h"
#include "cli/exit_code.h"
#include "cli/own_folder.h"

namespace d2g::cli {
namespace {

absl::StatusOr<int> Generate(const std::vector<std::string>& arguments) {
  const std::string program = OwnFolder() + "/d2g-model";
  std::vector<char*> argv = {const_cast<char*>(program.c_str()), const_cast<char*>("generate")};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  execv(program.c_str(), argv.data());
  return absl::InternalError(absl::StrCat("cannot run ", program, ": ", std::strerror(errno),
                                          "; d2g and d2g-model belong in one folder"));
}

}  // namespace

void AddGenerate(CLI::App& app, Action* action) {
  CLI::App* generate = app.add_subcommand(
      "generate", "Make pictures with a model folder (d2g generate --help lists its flags)");
  // Every argument is d2g-model's business, --help too.
  generate->set_help_flag("");
  generate->prefix_command();
  generate->callback([generate, action] {
    const std::vector<std::string> arguments = generate->remaining();
    *action = [arguments] { return Generate(arguments); };
  });
}

}  // namespace d2g::cli
