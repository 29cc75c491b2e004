#include "cli/machine_facts.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"
#include "services/common/address.h"
#include "services/common/clock.h"
#include "services/common/launch.h"
#include "services/common/utf8.h"

namespace d2g::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPrograms[] = {"d2g-coordinator", "d2g-store", "d2g-worker",
                                     "d2g-trainer",     "d2g-rank",  "d2g-model"};
constexpr int kSyncedWrites = 9;
constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

std::string FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// A number of a control group, whose files say "max" for none.
int64_t LimitIn(const std::string& path) {
  int64_t value = 0;
  return absl::SimpleAtoi(FirstLine(path), &value) && value > 0 ? value : kNoLimit;
}

// The folder of this process's control group (version 2), and those above it.
std::vector<std::string> ControlGroups() {
  std::string own;
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    if (absl::StartsWith(line, "0::")) own = line.substr(3);
  }
  std::vector<std::string> folders;
  for (fs::path path = own; !path.empty(); path = path.parent_path()) {
    folders.push_back("/sys/fs/cgroup" + path.string());
    if (path == path.root_path()) break;
  }
  return folders;
}

double CpuQuota() {
  double least = 0;
  for (const std::string& folder : ControlGroups()) {
    const std::vector<std::string> parts = absl::StrSplit(FirstLine(folder + "/cpu.max"), ' ');
    double quota = 0, period = 0;
    if (parts.size() != 2 || !absl::SimpleAtod(parts[0], &quota) ||
        !absl::SimpleAtod(parts[1], &period) || period <= 0) {
      continue;
    }
    least = least == 0 ? quota / period : std::min(least, quota / period);
  }
  return least;
}

void AddMemory(MachineFacts* facts) {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> parts = absl::StrSplit(line, ' ', absl::SkipEmpty());
    int64_t kib = 0;
    if (parts.size() < 2 || !absl::SimpleAtoi(parts[1], &kib)) continue;
    if (parts[0] == "MemTotal:") facts->memory_bytes = kib << 10;
    if (parts[0] == "MemAvailable:") facts->available_bytes = kib << 10;
  }
  for (const std::string& folder : ControlGroups()) {
    const int64_t limit = LimitIn(folder + "/memory.max");
    if (limit == kNoLimit) continue;
    const int64_t used = LimitIn(folder + "/memory.current");
    facts->memory_bytes = std::min(facts->memory_bytes, limit);
    facts->available_bytes = std::min(facts->available_bytes, std::max<int64_t>(0, limit - used));
  }
}

std::string FileSystemName(int64_t type) {
  static constexpr struct {
    int64_t magic;
    const char* name;
  } kNames[] = {{0xEF53, "ext4"},        {0x58465342, "xfs"},   {0x9123683E, "btrfs"},
                {0x2FC12FC1, "zfs"},     {0x01021994, "tmpfs"}, {0x6969, "nfs"},
                {0x794C7630, "overlay"}, {0x65735546, "fuse"},  {0xFF534D42, "cifs"},
                {0x0BD00BD0, "lustre"},  {0x47504653, "gpfs"},  {0x01021997, "9p"}};
  for (const auto& item : kNames) {
    if (item.magic == type) return item.name;
  }
  return absl::StrFormat("type 0x%x", type);
}

// Writes and syncs a small file a few times, as an acknowledgement of the store does.
void TrySyncedWrites(DiskFacts* disk) {
  std::string path = disk->existing + "/.d2g-doctor-XXXXXX";
  const int fd = ::mkostemp(path.data(), O_CLOEXEC);
  if (fd < 0) {
    disk->trouble = std::strerror(errno);
    return;
  }
  const common::Clock* const clock = common::RealClock::Get();
  std::vector<absl::Duration> times;
  const std::array<char, 4096> block{};
  for (int i = 0; i < kSyncedWrites; ++i) {
    const absl::Duration start = clock->SteadyNow();
    if (::write(fd, block.data(), block.size()) != static_cast<ssize_t>(block.size()) ||
        ::fsync(fd) != 0) {
      disk->trouble = std::strerror(errno);
      break;
    }
    times.push_back(clock->SteadyNow() - start);
  }
  ::close(fd);
  ::unlink(path.c_str());
  if (times.empty()) return;
  std::nth_element(times.begin(), times.begin() + static_cast<ptrdiff_t>(times.size() / 2),
                   times.end());
  disk->fsync = times[times.size() / 2];
}

DiskFacts LookAtDisk(const std::string& folder) {
  DiskFacts disk;
  disk.path = folder;
  std::error_code error;
  fs::path existing = fs::absolute(folder, error).lexically_normal();
  while (!fs::exists(existing, error) && existing.has_relative_path()) {
    existing = existing.parent_path();
  }
  disk.existing = existing.string();
  if (!fs::is_directory(existing, error)) {
    disk.trouble = disk.existing + " is not a folder";
    return disk;
  }
  struct statfs info {};
  if (::statfs(disk.existing.c_str(), &info) != 0) {
    disk.trouble = std::strerror(errno);
    return disk;
  }
  disk.free_bytes = static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_bsize);
  disk.file_system = FileSystemName(static_cast<int64_t>(info.f_type));
  TrySyncedWrites(&disk);
  return disk;
}

// "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.07  Release Build ..."
std::string DriverVersion() {
  for (const absl::string_view word :
       absl::StrSplit(FirstLine("/proc/driver/nvidia/version"), ' ', absl::SkipEmpty())) {
    if (absl::StrContains(word, '.') && word[0] >= '0' && word[0] <= '9') return std::string(word);
  }
  return "";
}

int64_t FreeSharedMemory() {
  struct statfs info {};
  if (::statfs("/dev/shm", &info) != 0) return 0;
  return static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_bsize);
}

int UsableCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
}

// What was written to a file in memory; closes it.
std::string Content(int fd) {
  std::string text;
  std::array<char, 4096> buffer;
  ssize_t n;
  off_t at = 0;
  while ((n = ::pread(fd, buffer.data(), buffer.size(), at)) > 0) {
    text.append(buffer.data(), static_cast<size_t>(n));
    at += n;
  }
  ::close(fd);
  return text;
}

struct Output {
  std::optional<common::ExitStatus> end;  // nothing: it could not be started, or did not end
  bool timed_out = false;
  std::string out, err;
};

// Whether the child ended within `patience`; reaps it then.
bool WaitFor(pid_t child, absl::Duration patience, int* status) {
  const int fd = static_cast<int>(::syscall(SYS_pidfd_open, child, 0));
  if (fd >= 0) {
    struct pollfd poll {
      fd, POLLIN, 0
    };
    while (::poll(&poll, 1, static_cast<int>(absl::ToInt64Milliseconds(patience))) < 0 &&
           errno == EINTR) {
    }
    ::close(fd);
    if (poll.revents == 0) return false;
  }
  while (::waitpid(child, status, 0) < 0 && errno == EINTR) {
  }
  return true;
}

// Runs a program to its end, or kills it. Files in memory take what it prints: pipes could fill up.
Output RunForOutput(const std::string& program, const char* argument, absl::Duration patience) {
  Output output;
  const int out = ::memfd_create("out", MFD_CLOEXEC), err = ::memfd_create("err", MFD_CLOEXEC);
  const absl::StatusOr<pid_t> child =
      out < 0 || err < 0
          ? absl::InternalError("no memory for its output")
          : common::Launch({.argv = {program, argument}, .stdout_fd = out, .stderr_fd = err});
  if (child.ok()) {
    int status = 0;
    output.timed_out = !WaitFor(*child, patience, &status);
    // Not waited for: a driver that hangs can keep it from dying.
    if (output.timed_out) ::kill(*child, SIGKILL);
    if (!output.timed_out) output.end = common::ExitStatus::FromWait(status);
  }
  if (out >= 0) output.out = Content(out);
  if (err >= 0) output.err = Content(err);
  if (!child.ok()) output.err = std::string(child.status().message());
  return output;
}

}  // namespace

std::optional<TorchFacts> ParseProbe(const std::string& text, std::string* trouble) {
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  try {
    TorchFacts facts;
    facts.version = json.at("libtorch").get<std::string>();
    facts.cpu_capability = json.at("cpu_capability").get<std::string>();
    facts.threads = json.at("threads").get<int>();
    facts.has_onednn = json.at("onednn").get<bool>();
    facts.built_with_cuda = json.at("built_with_cuda").get<bool>();
    facts.cuda_runtime = json.at("cuda_runtime").get<std::string>();
    facts.nccl = json.at("nccl").get<std::string>();
    facts.trouble = json.at("trouble").get<std::string>();
    for (const auto& item : json.at("devices")) {
      facts.devices.push_back({.index = item.at("index").get<int>(),
                               .name = item.at("name").get<std::string>(),
                               .capability = item.at("capability").get<std::string>(),
                               .total_bytes = item.at("total_bytes").get<int64_t>(),
                               .free_bytes = item.at("free_bytes").get<int64_t>(),
                               .trouble = item.at("trouble").get<std::string>()});
    }
    return facts;
  } catch (const nlohmann::json::exception&) {
    *trouble =
        "d2g-model probe printed something else than its facts: " + common::ValidUtf8(text, 200);
    return std::nullopt;
  }
}

MachineFacts CollectFacts(const FactsRequest& request) {
  MachineFacts facts;
  facts.bin_dir = request.bin_dir;
  for (const char* name : kPrograms) {
    if (::access(absl::StrCat(request.bin_dir, "/", name).c_str(), X_OK) != 0) {
      facts.missing_programs.emplace_back(name);
    }
  }
  const Output probe = RunForOutput(request.bin_dir + "/d2g-model", "probe", request.patience);
  if (probe.timed_out) {
    facts.torch_trouble =
        absl::StrCat("d2g-model probe did not answer within ",
                     absl::FormatDuration(request.patience), "; a driver that hangs does that");
  } else if (probe.end.has_value() && probe.end->Exited(0)) {
    facts.torch = ParseProbe(probe.out, &facts.torch_trouble);
  } else {
    facts.torch_trouble = std::string(absl::StripSuffix(probe.err, "\n"));
    if (facts.torch_trouble.empty()) {
      facts.torch_trouble = absl::StrCat("d2g-model probe ended with ", probe.end->ToString());
    }
  }
  facts.driver = DriverVersion();
  facts.cores = UsableCores();
  facts.cpu_quota = CpuQuota();
  AddMemory(&facts);
  struct rlimit files {};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {
    facts.open_files =
        static_cast<int64_t>(std::min<rlim_t>(files.rlim_cur, static_cast<rlim_t>(kNoLimit)));
  }
  facts.shared_memory_bytes = FreeSharedMemory();
  if (const char* threads = std::getenv("OMP_NUM_THREADS")) facts.omp_num_threads = threads;
  for (const std::string& folder : request.folders) facts.disks.push_back(LookAtDisk(folder));
  for (const int port : request.ports) {
    const absl::Status free = common::ExplainListenFailure(absl::StrCat("127.0.0.1:", port));
    facts.ports.push_back({port, std::string(free.message())});
  }
  return facts;
}

}  // namespace d2g::cli
