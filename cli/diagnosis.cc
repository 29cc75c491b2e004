#include "cli/diagnosis.h"

#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace d2g::cli {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;
// The demo keeps well under a gigabyte; a dataset of a million latents of Stable Diffusion 32 GB.
constexpr int64_t kLeastDisk = kGiB;
constexpr int64_t kComfortableDisk = 20 * kGiB;
constexpr int64_t kLeastMemory = kGiB;
constexpr int64_t kComfortableMemory = 4 * kGiB;
// A shard keeps its tables open; each connection takes one more.
constexpr int64_t kComfortableFiles = 4096;
// What NCCL maps for each pair of ranks on one node.
constexpr int64_t kComfortableSharedMemory = kGiB;
// An append is acknowledged after one.
constexpr absl::Duration kSlowSync = absl::Milliseconds(50);
// The first driver that runs programs of a CUDA runtime, by the runtime's major version.
constexpr std::pair<int, int> kLeastDriver[] = {{11, 450}, {12, 525}, {13, 580}};

std::string Bytes(int64_t bytes) {
  return absl::StrFormat("%.1f GiB", static_cast<double>(bytes) / static_cast<double>(kGiB));
}

int Major(const std::string& version) {
  int major = 0;
  const std::vector<std::string> parts = absl::StrSplit(version, '.');
  return absl::SimpleAtoi(parts[0], &major) ? major : 0;
}

class Diagnosis {
 public:
  explicit Diagnosis(const MachineFacts& facts) : facts_(facts) {}

  std::vector<Finding> Run() {
    Programs();
    Torch();
    Devices();
    Nccl();
    Cpu();
    Memory();
    Limits();
    for (const DiskFacts& disk : facts_.disks) Disk(disk);
    Ports();
    return std::move(findings_);
  }

 private:
  void Add(Verdict verdict, std::string topic, std::string what, std::string advice = "") {
    findings_.push_back({verdict, std::move(topic), std::move(what), std::move(advice)});
  }

  void Programs() {
    if (facts_.missing_programs.empty()) {
      return Add(Verdict::kOk, "programs", absl::StrCat("all in ", facts_.bin_dir));
    }
    Add(Verdict::kBad, "programs",
        absl::StrCat(absl::StrJoin(facts_.missing_programs, ", "), " missing in ", facts_.bin_dir),
        "build everything (./run build) and keep the programs in one folder");
  }

  void Torch() {
    if (!facts_.torch) {
      return Add(Verdict::kBad, "libtorch", absl::StrCat("does not start: ", facts_.torch_trouble),
                 "tools/libtorch.sh fetches it, then ./run build; D2G_CACHE says where it lies");
    }
    const TorchFacts& torch = *facts_.torch;
    const std::string what =
        absl::StrCat(torch.version, torch.built_with_cuda ? ", CUDA " + torch.cuda_runtime : "",
                     ", ", torch.cpu_capability, torch.has_onednn ? ", oneDNN" : "");
    if (!torch.has_onednn) {
      return Add(Verdict::kWarning, "libtorch", what,
                 "without oneDNN networks run several times slower on the CPU");
    }
    if (torch.cpu_capability != "AVX2" && torch.cpu_capability != "AVX512") {
      return Add(
          Verdict::kWarning, "libtorch", what,
          "this processor has no AVX2 (or ATEN_CPU_CAPABILITY hides it): simulate elsewhere");
    }
    Add(Verdict::kOk, "libtorch", what);
  }

  void Devices() {
    const bool has_build = facts_.torch && facts_.torch->built_with_cuda;
    if (facts_.driver.empty()) {
      return Add(has_build ? Verdict::kWarning : Verdict::kOk, "device",
                 "no NVIDIA driver: everything runs on the CPU",
                 has_build ? "this build has CUDA: install the driver, or in a container give it "
                             "the GPU (--gpus all, nvidia.com/gpu)"
                           : "");
    }
    if (!has_build) {
      return Add(Verdict::kWarning, "device",
                 absl::StrCat("driver ", facts_.driver, ", but this build has no CUDA"),
                 "build with D2G_CUDA=1 ./run build to use the GPU");
    }
    const TorchFacts& torch = *facts_.torch;
    for (const auto& [runtime, least] : kLeastDriver) {
      if (Major(torch.cuda_runtime) != runtime || Major(facts_.driver) >= least) continue;
      return Add(Verdict::kBad, "device",
                 absl::StrCat("driver ", facts_.driver, " is older than CUDA ", torch.cuda_runtime,
                              " needs (", least, ")"),
                 absl::StrCat("install driver ", least, " or newer"));
    }
    if (torch.devices.empty()) {
      return Add(Verdict::kBad, "device",
                 absl::StrCat("driver ", facts_.driver, ", but LibTorch sees no GPU",
                              torch.trouble.empty() ? "" : ": " + torch.trouble),
                 "check nvidia-smi, CUDA_VISIBLE_DEVICES and the permissions of /dev/nvidia*");
    }
    for (const TorchFacts::Device& device : torch.devices) Device(device);
  }

  void Device(const TorchFacts::Device& device) {
    const std::string what =
        absl::StrCat("cuda:", device.index, " ", device.name, " (", device.capability, "), ",
                     Bytes(device.free_bytes), " of ", Bytes(device.total_bytes), " free, driver ",
                     facts_.driver);
    if (!device.trouble.empty()) {
      return Add(Verdict::kBad, "device", absl::StrCat(what, ": ", device.trouble),
                 "a trial computation failed: look for Xid errors in dmesg, reset or replace it");
    }
    if (device.free_bytes < device.total_bytes / 2) {
      return Add(Verdict::kWarning, "device", what, "another process uses it: see nvidia-smi");
    }
    Add(Verdict::kOk, "device", what);
  }

  void Nccl() {
    if (!facts_.torch || facts_.torch->devices.empty()) {
      return Add(Verdict::kOk, "nccl", "not used: ranks on the CPU exchange gradients with Gloo");
    }
    const TorchFacts& torch = *facts_.torch;
    if (torch.nccl.empty()) {
      return Add(Verdict::kBad, "nccl", "not in this build", "build with D2G_CUDA=1");
    }
    if (torch.devices.size() > 1 && facts_.shared_memory_bytes < kComfortableSharedMemory) {
      return Add(
          Verdict::kWarning, "nccl",
          absl::StrCat(torch.nccl, ", ", Bytes(facts_.shared_memory_bytes), " free in /dev/shm"),
          "ranks on one node share memory there: mount an emptyDir with medium Memory, or "
          "run the container with --shm-size=1g");
    }
    Add(Verdict::kOk, "nccl", torch.nccl);
  }

  void Cpu() {
    const std::string cores = absl::StrCat(facts_.cores, facts_.cores == 1 ? " core" : " cores");
    if (facts_.cpu_quota > 0 && facts_.cpu_quota < facts_.cores) {
      return Add(Verdict::kWarning, "cpu",
                 absl::StrFormat("%s, but the control group allows %.1f", cores, facts_.cpu_quota),
                 absl::StrFormat("start at most %d single-thread workers (--workers, --threads)",
                                 std::max(1, static_cast<int>(facts_.cpu_quota))));
    }
    if (!facts_.omp_num_threads.empty()) {
      return Add(Verdict::kOk, "cpu",
                 absl::StrCat(cores, ", OMP_NUM_THREADS=", facts_.omp_num_threads,
                              " (programs go by --threads)"));
    }
    Add(Verdict::kOk, "cpu", cores);
  }

  void Memory() {
    const std::string what = absl::StrCat(Bytes(facts_.available_bytes), " of ",
                                          Bytes(facts_.memory_bytes), " available");
    if (facts_.available_bytes < kLeastMemory) {
      return Add(Verdict::kBad, "memory", what, "the demo alone needs 1 GiB: free some");
    }
    if (facts_.available_bytes < kComfortableMemory) {
      return Add(Verdict::kWarning, "memory", what,
                 "enough for the demo; a Stable Diffusion teacher takes 4 GiB in each worker");
    }
    Add(Verdict::kOk, "memory", what);
  }

  void Limits() {
    const std::string what = absl::StrCat("open files: ", facts_.open_files);
    if (facts_.open_files < kComfortableFiles) {
      return Add(Verdict::kWarning, "limits", what,
                 absl::StrCat("ulimit -n ", kComfortableFiles,
                              " (or LimitNOFILE=) before starting stores of large datasets"));
    }
    Add(Verdict::kOk, "limits", what);
  }

  void Disk(const DiskFacts& disk) {
    if (!disk.trouble.empty()) {
      return Add(Verdict::kBad, "disk",
                 absl::StrCat(disk.path, ": cannot be written: ", disk.trouble),
                 "choose another folder (--data-dir) or mend its permissions or disk");
    }
    const std::string what =
        absl::StrFormat("%s: %s free, %s, fsync %.1f ms", disk.path, Bytes(disk.free_bytes),
                        disk.file_system, absl::ToDoubleMilliseconds(disk.fsync));
    if (disk.free_bytes < kLeastDisk) {
      return Add(Verdict::kBad, "disk", what, "free some space: even the demo may fill it");
    }
    if (disk.file_system == "tmpfs") {
      return Add(Verdict::kWarning, "disk", what,
                 "lives in memory: triples and checkpoints are gone after a restart");
    }
    if (disk.file_system == "nfs" || disk.file_system == "cifs" || disk.file_system == "fuse" ||
        disk.file_system == "9p") {
      return Add(Verdict::kWarning, "disk", what,
                 "fine for teachers and outputs; keep store shards on a local disk");
    }
    if (disk.fsync > kSlowSync) {
      return Add(Verdict::kWarning, "disk", what,
                 "slow to sync: appends wait for it; give the store shards a faster disk");
    }
    if (disk.free_bytes < kComfortableDisk) {
      return Add(Verdict::kWarning, "disk", what,
                 "a million triples of Stable Diffusion 1.5 take 32 GB in fp16");
    }
    Add(Verdict::kOk, "disk", what);
  }

  void Ports() {
    std::vector<std::string> free;
    for (const PortFacts& port : facts_.ports) {
      if (port.trouble.empty()) {
        free.push_back(absl::StrCat(port.port));
      } else {
        Add(Verdict::kWarning, "ports", port.trouble,
            "something listens there already, or the port is reserved: choose another");
      }
    }
    if (!free.empty()) Add(Verdict::kOk, "ports", absl::StrCat(absl::StrJoin(free, ", "), " free"));
  }

  const MachineFacts& facts_;
  std::vector<Finding> findings_;
};

}  // namespace

std::vector<Finding> Diagnose(const MachineFacts& facts) { return Diagnosis(facts).Run(); }

}  // namespace d2g::cli
