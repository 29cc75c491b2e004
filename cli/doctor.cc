// d2g doctor: whether this machine has what d2g needs, and what to do about what it lacks.
#include <cstdio>
#include <iterator>
#include <memory>

#include "cli/cluster_file.h"
#include "cli/command.h"
#include "cli/diagnosis.h"
#include "cli/exit_code.h"
#include "cli/own_folder.h"
#include "nlohmann/json.hpp"

namespace d2g::cli {
namespace {

// The ports that deploy/ gives to coordinator, stores and admin pages.
constexpr int kDeployedPorts[] = {7070, 7071, 9090};

struct DoctorFlags {
  std::vector<std::string> folders;
  std::vector<int> ports = {std::begin(kDeployedPorts), std::end(kDeployedPorts)};
  std::string bin_dir;
  bool json = false;
};

const char* Word(Verdict verdict) {
  switch (verdict) {
    case Verdict::kOk:
      return "ok";
    case Verdict::kWarning:
      return "warning";
    case Verdict::kBad:
      return "bad";
  }
  return "?";
}

void PrintJson(const std::vector<Finding>& findings) {
  nlohmann::json list = nlohmann::json::array();
  for (const Finding& finding : findings) {
    list.push_back({{"verdict", Word(finding.verdict)},
                    {"topic", finding.topic},
                    {"what", finding.what},
                    {"advice", finding.advice}});
  }
  std::printf("%s\n", list.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

absl::StatusOr<int> Doctor(const DoctorFlags& flags) {
  FactsRequest request;
  request.bin_dir = flags.bin_dir.empty() ? OwnFolder() : flags.bin_dir;
  request.folders = flags.folders.empty() ? std::vector{DefaultDataDir()} : flags.folders;
  request.ports = flags.ports;
  const std::vector<Finding> findings = Diagnose(CollectFacts(request));
  int warnings = 0, bad = 0;
  for (const Finding& finding : findings) {
    warnings += finding.verdict == Verdict::kWarning;
    bad += finding.verdict == Verdict::kBad;
  }
  if (flags.json) {
    PrintJson(findings);
  } else {
    for (const Finding& finding : findings) {
      std::printf("%-8s %-9s %s\n", Word(finding.verdict), finding.topic.c_str(),
                  finding.what.c_str());
      if (!finding.advice.empty()) std::printf("%18s -> %s\n", "", finding.advice.c_str());
    }
    std::printf("%s\n", bad > 0        ? "d2g will not run well here: see what is bad"
                        : warnings > 0 ? "d2g runs here; see the warnings"
                                       : "all well");
  }
  return bad > 0 ? kExitFailure : kExitOk;
}

}  // namespace

void AddDoctor(CLI::App& app, Action* action) {
  auto flags = std::make_shared<DoctorFlags>();
  CLI::App* doctor = app.add_subcommand("doctor", "Check what this machine has for d2g");
  doctor
      ->add_option("--data-dir", flags->folders,
                   "Folder to look at; may be repeated (default: the local cluster's)")
      ->check(NotEmpty);
  doctor->add_option("--port", flags->ports, "Ports that should be free; may be repeated")
      ->capture_default_str()
      ->check(CLI::Range(1, 65535));
  doctor->add_option("--bin-dir", flags->bin_dir, "Folder of the binaries; default: d2g's own");
  doctor->add_flag("--json", flags->json, "Print the findings as JSON");
  doctor->callback([flags, action] { *action = [flags] { return Doctor(*flags); }; });
}

}  // namespace d2g::cli
