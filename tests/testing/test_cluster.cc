#include "tests/testing/test_cluster.h"

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "services/common/status_macros.h"
#include "services/store/client/triple_client.h"
#include "tests/testing/http_get.h"
#include "tests/testing/wait.h"

namespace d2g::testing {
namespace {

constexpr absl::Duration kStartTimeout = absl::Seconds(60);
constexpr absl::Duration kCallTimeout = absl::Seconds(60);

std::string Loopback(int port) { return absl::StrCat("127.0.0.1:", port); }

// The parent of a process; -1 when it is gone.
pid_t ParentOf(pid_t pid) {
  std::ifstream stat(absl::StrCat("/proc/", pid, "/stat"));
  std::string text;
  std::getline(stat, text);
  // The name in parentheses may hold anything: fields go on after the last one.
  const size_t close = text.rfind(')');
  if (close == std::string::npos) return -1;
  char state = 0;
  pid_t parent = -1;
  if (std::sscanf(text.c_str() + close + 1, " %c %d", &state, &parent) != 2) return -1;
  return state == 'Z' ? -1 : parent;
}

std::string FamilyOf(const std::string& series) {
  std::string family = series.substr(0, series.find('{'));
  for (const char* suffix : {"_bucket", "_sum", "_count"}) {
    const size_t length = std::string(suffix).size();
    if (family.size() > length && family.compare(family.size() - length, length, suffix) == 0) {
      family.resize(family.size() - length);
      break;
    }
  }
  return family;
}

}  // namespace

const char* ProgramOf(Role role) {
  switch (role) {
    case Role::kCoordinator:
      return "d2g-coordinator";
    case Role::kStore:
      return "d2g-store";
    case Role::kWorker:
      return "d2g-worker";
    case Role::kTrainer:
      return "d2g-trainer";
  }
  return "";
}

TestCluster::TestCluster(TestClusterOptions options) : options_(std::move(options)) {
  const auto add = [this](Role role, int count) {
    for (int k = 0; k < count; ++k) members_[{role, k}] = std::make_unique<Member>();
  };
  add(Role::kCoordinator, 1);
  add(Role::kStore, options_.shards);
  add(Role::kWorker, options_.workers);
  add(Role::kTrainer, options_.trainers);
}

absl::Status TestCluster::Start() {
  D2G_RETURN_IF_ERROR(Launch(Role::kCoordinator, 0));
  client_ = std::make_unique<coordinator::CoordinatorClient>(coordinator_address());
  for (const auto& [id, member] : members_) {
    if (id.first != Role::kCoordinator) D2G_RETURN_IF_ERROR(Launch(id.first, id.second));
  }
  return absl::OkStatus();
}

std::string TestCluster::Name(Role role, int number) const {
  return absl::StrCat(ProgramOf(role), "-", number);
}

std::string TestCluster::coordinator_address() const {
  return Loopback(members_.at({Role::kCoordinator, 0})->ports.grpc);
}

std::vector<MemberId> TestCluster::members() const {
  std::vector<MemberId> ids;
  for (const auto& [id, member] : members_) ids.push_back(id);
  return ids;
}

std::vector<std::string> TestCluster::Arguments(Role role, int number,
                                                const common::Ports& ports) const {
  const std::string folder = dir_.File(Name(role, number));
  std::vector<std::string> arguments = {ProgramOf(role), "--admin-address", Loopback(ports.admin),
                                        "--port-file", folder + ".ports"};
  const auto add = [&arguments](std::vector<std::string> more) {
    arguments.insert(arguments.end(), more.begin(), more.end());
  };
  switch (role) {
    case Role::kCoordinator:
      add({"--listen", Loopback(ports.grpc), "--data-dir", folder, "--shards",
           absl::StrCat(options_.shards), "--lease-duration",
           absl::FormatDuration(options_.lease_duration), "--gang-settle",
           absl::FormatDuration(options_.gang_settle), "--agent-timeout",
           absl::FormatDuration(options_.agent_timeout)});
      break;
    case Role::kStore:
      add({"--listen", Loopback(ports.grpc), "--data-dir", folder, "--shard", absl::StrCat(number),
           "--coordinator", coordinator_address(), "--min-free-bytes", "0", "--min-free-share",
           "0"});
      add(options_.store_flags);
      break;
    case Role::kWorker:
      add({"--coordinator", coordinator_address(), "--threads", "1", "--device", "cpu", "--node",
           absl::StrCat("node-", number)});
      break;
    case Role::kTrainer:
      add({"--coordinator", coordinator_address(), "--slots", absl::StrCat(options_.slots),
           "--device", "cpu", "--node", absl::StrCat("node-", number)});
      break;
  }
  return arguments;
}

absl::Status TestCluster::Launch(Role role, int number) {
  Member& member = At(role, number);
  const std::string port_file = dir_.File(Name(role, number)) + ".ports";
  std::remove(port_file.c_str());
  member.process = std::make_unique<Process>(Arguments(role, number, member.ports));
  const bool listens =
      WaitFor([&] { return common::ReadPortFile(port_file).ok() || !member.process->Running(); },
              kStartTimeout);
  const auto ports = common::ReadPortFile(port_file);
  if (!listens || !ports.ok()) {
    return absl::InternalError(
        absl::StrCat(Name(role, number), " did not start:\n", member.process->Output()));
  }
  member.ports = *ports;
  return absl::OkStatus();
}

void TestCluster::Bury(Member& member, const ExitResult& result) {
  member.output += result.output;
  member.process.reset();
}

void TestCluster::Kill(Role role, int number) {
  Member& member = At(role, number);
  if (member.process == nullptr) return;
  member.process->Signal(SIGKILL);
  Bury(member, member.process->Wait());
}

ExitResult TestCluster::Terminate(Role role, int number, absl::Duration timeout) {
  Member& member = At(role, number);
  if (member.process == nullptr) return {};
  member.process->Signal(SIGTERM);
  const ExitResult result = member.process->Wait(timeout);
  if (result.code != Process::kStillRunning) Bury(member, result);
  return result;
}

absl::Status TestCluster::Restart(Role role, int number) { return Launch(role, number); }

bool TestCluster::Running(Role role, int number) {
  Member& member = At(role, number);
  return member.process != nullptr && member.process->Running();
}

std::vector<pid_t> TestCluster::RankPids(int trainer) const {
  std::vector<pid_t> ranks;
  const Member& member = *members_.at({Role::kTrainer, trainer});
  if (member.process == nullptr) return ranks;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    int pid = 0;
    if (absl::SimpleAtoi(entry.path().filename().string(), &pid) &&
        ParentOf(pid) == member.process->pid()) {
      ranks.push_back(pid);
    }
  }
  return ranks;
}

std::string TestCluster::Scrape(Role role, int number) const {
  return HttpGet(members_.at({role, number})->ports.admin, "/metrics");
}

std::string TestCluster::Logs(size_t bytes) const {
  std::string logs;
  for (const auto& [id, member] : members_) {
    std::string output = member->output;
    if (member->process != nullptr) output += member->process->Output();
    if (output.size() > bytes) output = "... " + output.substr(output.size() - bytes);
    absl::StrAppend(&logs, "==== ", Name(id.first, id.second), "\n", output, "\n");
  }
  return logs;
}

absl::StatusOr<coordinator::v1::Job> TestCluster::Submit(coordinator::v1::JobSpec spec,
                                                         const std::string& prompts) {
  const absl::Time deadline = absl::Now() + kCallTimeout;
  D2G_ASSIGN_OR_RETURN(const auto list, client_->UploadPromptList(prompts, deadline));
  spec.mutable_prompts()->set_digest(list.digest());
  coordinator::v1::CreateJobRequest request;
  *request.mutable_spec() = std::move(spec);
  // Where it is written, no other job is.
  request.set_request_id(request.spec().output_dir());
  return client_->CreateJob(request, deadline);
}

absl::StatusOr<coordinator::v1::Job> TestCluster::WaitForEnd(const std::string& name,
                                                             absl::Duration timeout) {
  using Job = coordinator::v1::Job;
  coordinator::v1::GetJobRequest request;
  request.set_name(name);
  absl::StatusOr<Job> job = absl::UnknownError("never asked");
  WaitFor(
      [&] {
        job = client_->GetJob(request, absl::Now() + kCallTimeout);
        absl::SleepFor(absl::Milliseconds(50));
        return !job.ok() || job->state() == Job::STATE_SUCCEEDED ||
               job->state() == Job::STATE_FAILED || job->state() == Job::STATE_CANCELLED;
      },
      timeout);
  return job;
}

absl::StatusOr<DatasetAudit> TestCluster::Audit(const std::string& dataset, int64_t n) {
  DatasetAudit audit;
  audit.copies.assign(static_cast<size_t>(n), 0);
  for (int shard = 0; shard < options_.shards; ++shard) {
    common::v1::ShardAddress address;
    address.set_shard(shard);
    address.set_address(Loopback(At(Role::kStore, shard).ports.grpc));
    store::TripleClient client(address);
    const absl::Time deadline = absl::Now() + kCallTimeout;
    D2G_ASSIGN_OR_RETURN(const auto summary, client.VerifyDataset(
                                                 dataset, [](const auto&) {}, deadline));
    audit.checked += summary.checked();
    audit.bad += summary.bad();
    audit.present += summary.present();
    D2G_ASSIGN_OR_RETURN(const auto sealed, client.ListSealedRanges(dataset, deadline));
    for (const auto& range : sealed.ranges()) {
      for (int64_t index = range.begin(); index < range.end() && index < n; ++index) {
        ++audit.copies[static_cast<size_t>(index)];
      }
    }
  }
  return audit;
}

std::map<std::string, double> ParseMetrics(const std::string& exposed) {
  std::map<std::string, double> values;
  for (const absl::string_view line : absl::StrSplit(exposed, '\n')) {
    if (line.substr(0, 4) != "d2g_") continue;
    const size_t space = line.rfind(' ');
    double value = 0;
    if (space == absl::string_view::npos || !absl::SimpleAtod(line.substr(space + 1), &value)) {
      continue;
    }
    values[std::string(line.substr(0, space))] = value;
  }
  return values;
}

std::vector<std::string> MovedFamilies(const std::string& before, const std::string& after) {
  const auto old_values = ParseMetrics(before);
  std::set<std::string> moved;
  for (const auto& [series, value] : ParseMetrics(after)) {
    const auto it = old_values.find(series);
    if (it == old_values.end() ? value != 0 : value != it->second) moved.insert(FamilyOf(series));
  }
  return {moved.begin(), moved.end()};
}

}  // namespace d2g::testing
