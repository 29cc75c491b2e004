// What d2g doctor makes of what it finds.
#include "cli/diagnosis.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>

namespace d2g::cli {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kGiB = int64_t{1} << 30;

TorchFacts CpuTorch() {
  TorchFacts torch;
  torch.version = "2.11.0";
  torch.cpu_capability = "AVX512";
  torch.threads = 8;
  torch.has_onednn = true;
  return torch;
}

MachineFacts GoodCpuMachine() {
  MachineFacts facts;
  facts.bin_dir = "/opt/d2g";
  facts.torch = CpuTorch();
  facts.cores = 8;
  facts.memory_bytes = 32 * kGiB;
  facts.available_bytes = 16 * kGiB;
  facts.open_files = 1 << 20;
  facts.shared_memory_bytes = 8 * kGiB;
  facts.disks = {{.path = "/data",
                  .existing = "/data",
                  .free_bytes = 500 * kGiB,
                  .file_system = "ext4",
                  .fsync = absl::Milliseconds(1)}};
  facts.ports = {{7070, ""}, {7071, ""}};
  return facts;
}

MachineFacts GoodGpuMachine() {
  MachineFacts facts = GoodCpuMachine();
  facts.driver = "580.82.07";
  facts.torch->built_with_cuda = true;
  facts.torch->cuda_runtime = "13.0";
  facts.torch->nccl = "2.28.9";
  for (int i = 0; i < 2; ++i) {
    facts.torch->devices.push_back({.index = i,
                                    .name = "GPU",
                                    .capability = "9.0",
                                    .total_bytes = 80 * kGiB,
                                    .free_bytes = 79 * kGiB});
  }
  return facts;
}

TEST(DiagnosisTest, AGoodMachineIsAllWell) {
  for (const MachineFacts& facts : {GoodCpuMachine(), GoodGpuMachine()}) {
    const std::vector<Finding> findings = Diagnose(facts);
    for (const Finding& finding : findings) {
      EXPECT_EQ(finding.verdict, Verdict::kOk) << finding.topic << ": " << finding.what;
      EXPECT_EQ(finding.advice, "");
    }
    EXPECT_GE(findings.size(), 9u);
  }
}

struct Case {
  const char* topic;
  Verdict verdict;
  const char* what;
  const char* advice;
  std::function<void(MachineFacts&)> change;
};

// Every other topic must stay as it was.
void ExpectOneFinding(const MachineFacts& good, const Case& item) {
  MachineFacts facts = good;
  item.change(facts);
  int found = 0;
  for (const Finding& finding : Diagnose(facts)) {
    if (finding.verdict == Verdict::kOk) continue;
    ++found;
    EXPECT_EQ(finding.topic, item.topic);
    EXPECT_EQ(finding.verdict, item.verdict) << finding.what;
    EXPECT_THAT(finding.what, HasSubstr(item.what));
    EXPECT_THAT(finding.advice, HasSubstr(item.advice));
  }
  EXPECT_EQ(found, 1) << item.what;
}

TEST(DiagnosisTest, EachLackOfACpuMachineIsOneFindingWithAdvice) {
  const Case kCases[] = {
      {"programs", Verdict::kBad, "d2g-store, d2g-rank missing in /opt/d2g", "./run build",
       [](MachineFacts& f) {
         f.missing_programs = {"d2g-store", "d2g-rank"};
       }},
      {"libtorch", Verdict::kBad, "libtorch_cpu.so: cannot open", "tools/libtorch.sh",
       [](MachineFacts& f) {
         f.torch.reset();
         f.torch_trouble = "libtorch_cpu.so: cannot open";
       }},
      {"libtorch", Verdict::kWarning, "2.11.0", "oneDNN",
       [](MachineFacts& f) { f.torch->has_onednn = false; }},
      {"libtorch", Verdict::kWarning, "DEFAULT", "AVX2",
       [](MachineFacts& f) { f.torch->cpu_capability = "DEFAULT"; }},
      {"device", Verdict::kWarning, "driver 580.82.07", "D2G_CUDA=1",
       [](MachineFacts& f) { f.driver = "580.82.07"; }},
      {"device", Verdict::kWarning, "no NVIDIA driver", "install the driver",
       [](MachineFacts& f) { f.torch->built_with_cuda = true; }},
      {"cpu", Verdict::kWarning, "8 cores, but the control group allows 2.5", "at most 2",
       [](MachineFacts& f) { f.cpu_quota = 2.5; }},
      {"memory", Verdict::kBad, "0.5 GiB", "free some",
       [](MachineFacts& f) { f.available_bytes = kGiB / 2; }},
      {"memory", Verdict::kWarning, "2.0 GiB", "4 GiB",
       [](MachineFacts& f) { f.available_bytes = 2 * kGiB; }},
      {"limits", Verdict::kWarning, "1024", "ulimit -n 4096",
       [](MachineFacts& f) { f.open_files = 1024; }},
      {"disk", Verdict::kBad, "Read-only file system", "--data-dir",
       [](MachineFacts& f) { f.disks[0].trouble = "Read-only file system"; }},
      {"disk", Verdict::kBad, "0.5 GiB free", "free some space",
       [](MachineFacts& f) { f.disks[0].free_bytes = kGiB / 2; }},
      {"disk", Verdict::kWarning, "tmpfs", "restart",
       [](MachineFacts& f) { f.disks[0].file_system = "tmpfs"; }},
      {"disk", Verdict::kWarning, "nfs", "local disk",
       [](MachineFacts& f) { f.disks[0].file_system = "nfs"; }},
      {"disk", Verdict::kWarning, "fsync 80.0 ms", "faster disk",
       [](MachineFacts& f) { f.disks[0].fsync = absl::Milliseconds(80); }},
      {"disk", Verdict::kWarning, "5.0 GiB free", "32 GB",
       [](MachineFacts& f) { f.disks[0].free_bytes = 5 * kGiB; }},
      {"ports", Verdict::kWarning, "cannot listen on 127.0.0.1:7070", "choose another",
       [](MachineFacts& f) { f.ports[0].trouble = "cannot listen on 127.0.0.1:7070: in use"; }},
  };
  for (const Case& item : kCases) ExpectOneFinding(GoodCpuMachine(), item);
}

TEST(DiagnosisTest, EachLackOfAGpuMachineIsOneFindingWithAdvice) {
  const Case kCases[] = {
      {"device", Verdict::kBad, "driver 570.1 is older than CUDA 13.0 needs (580)", "580 or newer",
       [](MachineFacts& f) { f.driver = "570.1"; }},
      {"device", Verdict::kWarning, "cuda:1 GPU", "another process",
       [](MachineFacts& f) { f.torch->devices[1].free_bytes = kGiB; }},
      {"device", Verdict::kBad, "differs from the CPU's by 0.3", "dmesg",
       [](MachineFacts& f) {
         f.torch->devices[0].trouble = "a trial computation differs from the CPU's by 0.3";
       }},
      {"device", Verdict::kBad, "sees no GPU: no permission", "CUDA_VISIBLE_DEVICES",
       [](MachineFacts& f) {
         f.torch->devices.clear();
         f.torch->trouble = "no permission";
       }},
      {"nccl", Verdict::kBad, "not in this build", "D2G_CUDA=1",
       [](MachineFacts& f) { f.torch->nccl = ""; }},
      {"nccl", Verdict::kWarning, "0.1 GiB free in /dev/shm", "--shm-size",
       [](MachineFacts& f) { f.shared_memory_bytes = kGiB / 16; }},
  };
  for (const Case& item : kCases) ExpectOneFinding(GoodGpuMachine(), item);
}

TEST(ProbeTest, WhatIsNotTheProbesFactsIsSaid) {
  std::string trouble;
  for (const char* text : {"", "not JSON", "{}", R"({"libtorch": 2})", "[]"}) {
    EXPECT_FALSE(ParseProbe(text, &trouble).has_value()) << text;
    EXPECT_THAT(trouble, HasSubstr("d2g-model probe printed"));
  }
}

TEST(FactsTest, WhatCannotBeFoundOutIsSaid) {
  const MachineFacts facts = CollectFacts(
      {.bin_dir = "/nonexistent", .folders = {"/proc/d2g", "/tmp/d2g-none/data"}, .ports = {0}});
  EXPECT_EQ(facts.missing_programs.size(), 6u);
  EXPECT_FALSE(facts.torch.has_value());
  EXPECT_THAT(facts.torch_trouble, HasSubstr("No such file"));
  ASSERT_EQ(facts.disks.size(), 2u);
  EXPECT_NE(facts.disks[0].trouble, "");
  EXPECT_EQ(facts.disks[1].trouble, "");
  EXPECT_EQ(facts.disks[1].existing, "/tmp");
  EXPECT_GT(facts.disks[1].free_bytes, 0);
  EXPECT_EQ(facts.ports[0].trouble, "");
  EXPECT_GE(facts.cores, 1);
  EXPECT_GT(facts.memory_bytes, facts.available_bytes);
}

TEST(FactsTest, TheProbeInheritsWhatOtherProgramsDo) {
  std::string folder = ::testing::TempDir() + "/d2g-mask-XXXXXX";
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  std::ofstream(folder + "/d2g-model") << "#!/bin/sh\ngrep SigBlk /proc/self/status >&2; exit 1\n";
  std::filesystem::permissions(folder + "/d2g-model", std::filesystem::perms::owner_all);
  sigset_t blocked, before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  sigprocmask(SIG_BLOCK, &blocked, &before);
  const MachineFacts facts = CollectFacts({.bin_dir = folder, .patience = absl::Seconds(20)});
  sigprocmask(SIG_SETMASK, &before, nullptr);
  EXPECT_EQ(facts.torch_trouble, "SigBlk:\t0000000000000000");
  std::filesystem::remove_all(folder);
}

TEST(FactsTest, AProbeThatHangsIsGivenUp) {
  std::string folder = ::testing::TempDir() + "/d2g-hang-XXXXXX";
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  std::ofstream(folder + "/d2g-model") << "#!/bin/sh\nexec tail -f /dev/null\n";
  std::filesystem::permissions(folder + "/d2g-model", std::filesystem::perms::owner_all);
  const MachineFacts facts = CollectFacts({.bin_dir = folder, .patience = absl::Milliseconds(200)});
  EXPECT_THAT(facts.torch_trouble, HasSubstr("did not answer within 200ms"));
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace d2g::cli
