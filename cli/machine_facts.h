// What this machine has for d2g: collected by looking, without judging.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace d2g::cli {

// What d2g-model found that LibTorch can use.
struct TorchFacts {
  std::string version;         // "2.11.0"
  std::string cpu_capability;  // "AVX512", "AVX2", "DEFAULT"
  int threads = 0;
  bool has_onednn = false;
  bool built_with_cuda = false;
  std::string cuda_runtime;  // "13.0"; empty without CUDA
  std::string nccl;          // "2.28.9"; empty without
  struct Device {
    int index = 0;
    std::string name;
    std::string capability;  // "9.0"
    int64_t total_bytes = 0;
    int64_t free_bytes = 0;
    std::string trouble;  // why a trial computation on it failed; empty when it was right
  };
  std::vector<Device> devices;
  std::string trouble;  // why devices could not be counted
};

struct DiskFacts {
  std::string path;      // as asked for
  std::string existing;  // `path`, or the folder above it that exists
  int64_t free_bytes = 0;
  std::string file_system;  // "ext4", "tmpfs", "nfs"; "type 0x..." when unknown
  std::string trouble;      // why a file could not be written there
  absl::Duration fsync;     // the median of a few small writes, each synced
};

struct PortFacts {
  int port = 0;
  std::string trouble;  // why it cannot be bound
};

struct MachineFacts {
  std::string bin_dir;
  std::vector<std::string> missing_programs;
  // Nothing when d2g-model did not answer; `torch_trouble` says why.
  std::optional<TorchFacts> torch;
  std::string torch_trouble;
  std::string driver;    // version of the NVIDIA driver; empty when none is loaded
  int cores = 0;         // that this process may run on
  double cpu_quota = 0;  // cores that the control group allows; 0: no limit
  int64_t memory_bytes = 0;
  int64_t available_bytes = 0;      // now, within the control group's limit
  int64_t open_files = 0;           // soft limit
  int64_t shared_memory_bytes = 0;  // free in /dev/shm
  std::string omp_num_threads;      // the variable; empty when not set
  std::vector<DiskFacts> disks;
  std::vector<PortFacts> ports;
};

struct FactsRequest {
  std::string bin_dir;
  std::vector<std::string> folders;
  std::vector<int> ports;
  // For d2g-model, which may hang with a GPU's driver.
  absl::Duration patience = absl::Minutes(1);
};

// Looks. Writes small files under the existing folders among `folders` (or above them), and removes
// them; starts d2g-model once. Never fails: what could not be found out is said in the facts.
MachineFacts CollectFacts(const FactsRequest& request);

// What `d2g-model probe` printed; nothing and a reason when it is not that.
std::optional<TorchFacts> ParseProbe(const std::string& json, std::string* trouble);

}  // namespace d2g::cli
