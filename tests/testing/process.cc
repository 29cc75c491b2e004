#include "tests/testing/process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

#include "tests/testing/wait.h"

namespace d2g::testing {
namespace {

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

Process::Process(std::vector<std::string> arguments) {
  static std::atomic<int> counter{0};
  output_path_ = (std::filesystem::temp_directory_path() /
                  ("d2g-test-out-" + std::to_string(getpid()) + "-" + std::to_string(counter++)))
                     .string();
  if (arguments[0].find('/') == std::string::npos) {
    arguments[0] = Environment("D2G_BIN_DIR") + "/" + arguments[0];
  }
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const int output = open(output_path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
    execv(argv[0], argv.data());
    const char message[] = "exec failed\n";
    static_cast<void>(!write(STDERR_FILENO, message, sizeof(message) - 1));
    _exit(127);
  }
  close(output);
}

Process::~Process() {
  Signal(SIGKILL);
  Wait(absl::Seconds(30));
  unlink(output_path_.c_str());
}

void Process::Signal(int signal) {
  if (!reaped_) kill(pid_, signal);
}

bool Process::Running() {
  if (reaped_) return false;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) != pid_) return true;
  reaped_ = true;
  code_ = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  return false;
}

ExitResult Process::Wait(absl::Duration timeout) {
  const bool ended = WaitFor([this] { return !Running(); }, timeout);
  return {ended ? code_ : kStillRunning, Output()};
}

std::string Process::Output() const {
  std::ifstream file(output_path_);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

ExitResult RunProcess(std::vector<std::string> arguments, absl::Duration timeout) {
  Process process(std::move(arguments));
  return process.Wait(timeout);
}

std::string SourcePath(const std::string& relative) {
  return Environment("D2G_SOURCE_DIR") + "/" + relative;
}

std::string Python(const std::string& environment) {
  const char* cache = std::getenv("D2G_CACHE");
  const std::string folder = cache != nullptr ? cache : Environment("HOME") + "/.cache/d2g";
  return folder + "/" + environment + "/bin/python";
}

}  // namespace d2g::testing
