// d2g-model: what d2g needs LibTorch for but no cluster. d2g runs it, so that d2g itself starts
// without loading LibTorch. Exit codes: 0 done, 1 failure, 2 usage, 3 bad input.
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "model/files/error.h"
#include "model/tool/commands.h"

namespace {

constexpr int kFailure = 1, kUsage = 2, kBadInput = 3;

int Run(int argc, char** argv) {
  // CLI11 takes the next argument as the value of "--flag=", whose value is empty.
  std::vector<std::string> texts;
  for (int i = 0; i < argc; ++i) {
    std::string text = argv[i];
    const bool is_empty = text.starts_with("--") && text.find('=') == text.size() - 1;
    if (is_empty) text.pop_back();
    texts.push_back(std::move(text));
    if (is_empty) texts.emplace_back();
  }
  std::vector<const char*> arguments;
  for (const std::string& text : texts) arguments.push_back(text.c_str());

  CLI::App app("Runs a text-to-image model folder", "d2g-model");
  app.require_subcommand(1);
  app.option_defaults()->always_capture_default();
  d2g::model::Action action;
  d2g::model::AddGenerate(app, &action);
  d2g::model::AddTeacher(app, &action);
  d2g::model::AddComponent(app, &action);
  d2g::model::AddCheck(app, &action);
  d2g::model::AddInspect(app, &action);
  d2g::model::AddProbe(app, &action);
  try {
    app.parse(static_cast<int>(arguments.size()), arguments.data());
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUsage;
  }
  try {
    action();
  } catch (const d2g::model::Error& error) {
    std::cerr << "error: " << error.what() << "\n";
    return kBadInput;
  } catch (const c10::Error& error) {
    std::cerr << "error: " << error.what_without_backtrace() << "\n";
    return kFailure;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return kFailure;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  int code = Run(argc, argv);
  std::cout.flush();
  if (!std::cout) {
    std::cerr << "error: cannot write to the standard output\n";
    if (code == 0) code = kFailure;
  }
  // LibTorch takes a tenth of a second to unload, and every file is already committed.
  std::fflush(nullptr);
  std::_Exit(code);
}
