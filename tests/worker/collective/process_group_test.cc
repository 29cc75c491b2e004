// One contract for every kind of process group. The ranks are real processes, forked from this one.
#include "worker/collective/process_group.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "model/files/error.h"
#include "worker/collective/gradient_bucket.h"

namespace d2g::collective {
namespace {

using ::testing::HasSubstr;

constexpr std::chrono::seconds kTimeout{20};

// What one rank does; any exception or failed expectation fails the process.
using RankBody = std::function<void(ProcessGroup&)>;

// Runs `body` in `world` forked processes that meet through rank 0's store, and returns their exit
// codes. Forking is done before this process has used Torch's threads.
std::vector<int> RunRanks(ProcessGroupKind kind, int world, const RankBody& body,
                          std::chrono::milliseconds timeout = kTimeout) {
  std::array<int, 2> address_pipe;
  if (pipe(address_pipe.data()) != 0) abort();
  std::vector<pid_t> ranks;
  for (int rank = 0; rank < world; ++rank) {
    const pid_t pid = fork();
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      at::set_num_threads(1);
      int code = 0;
      try {
        ProcessGroupOptions options;
        options.kind = kind;
        options.rank = rank;
        options.size = world;
        options.generation = 3;
        options.timeout = timeout;
        options.meeting_timeout = timeout;
        std::unique_ptr<Rendezvous> rendezvous;
        // Every other rank reads one line; a line is shorter than PIPE_BUF and of fixed length.
        if (rank == 0) {
          rendezvous = Rendezvous::Host("127.0.0.1", timeout);
          std::string line = rendezvous->address();
          line.resize(32, ' ');
          for (int other = 1; other < world; ++other) {
            if (write(address_pipe[1], line.data(), line.size()) != 32) _exit(9);
          }
        } else {
          std::string line(32, ' ');
          if (read(address_pipe[0], line.data(), line.size()) != 32) _exit(9);
          line.resize(line.find(' '));
          rendezvous = Rendezvous::Connect(line, timeout);
        }
        const std::unique_ptr<ProcessGroup> group = MakeProcessGroup(*rendezvous, options);
        body(*group);
        if (testing::Test::HasFailure()) code = 1;
        // Rank 0 serves the store: it leaves last.
        if (code == 0) group->Barrier();
      } catch (const std::exception& error) {
        std::cerr << "rank " << rank << ": " << error.what() << std::endl;
        code = 2;
      }
      _exit(code);
    }
    ranks.push_back(pid);
  }
  close(address_pipe[0]);
  close(address_pipe[1]);
  std::vector<int> codes;
  for (const pid_t pid : ranks) {
    int status = 0;
    waitpid(pid, &status, 0);
    codes.push_back(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
  }
  return codes;
}

struct Case {
  ProcessGroupKind kind;
  int world;
  const char* name;
};

class ProcessGroupContract : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (!IsAvailable(GetParam().kind)) {
      GTEST_SKIP() << "NCCL needs a build with D2G_CUDA and a GPU";
    }
  }

  void Run(const RankBody& body) {
    if (GetParam().kind == ProcessGroupKind::kNccl) {
      // CUDA does not survive a fork: the only rank is this process.
      const auto rendezvous = Rendezvous::Host("127.0.0.1", kTimeout);
      ProcessGroupOptions options;
      options.kind = ProcessGroupKind::kNccl;
      options.timeout = kTimeout;
      body(*MakeProcessGroup(*rendezvous, options));
      return;
    }
    EXPECT_EQ(RunRanks(GetParam().kind, GetParam().world, body),
              std::vector<int>(GetParam().world, 0));
  }
};

TEST_P(ProcessGroupContract, KnowsRankAndSize) {
  Run([world = GetParam().world](ProcessGroup& group) {
    EXPECT_EQ(group.size(), world);
    EXPECT_LT(group.rank(), world);
  });
}

TEST_P(ProcessGroupContract, AllReduceSumsEveryType) {
  Run([world = GetParam().world](ProcessGroup& group) {
    for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kLong}) {
      const auto options = at::TensorOptions().dtype(type).device(group.device());
      const at::Tensor tensor = at::full({3, 5}, group.rank() + 1, options);
      group.AllReduceSum(tensor);
      EXPECT_TRUE(tensor.eq(world * (world + 1) / 2).all().item<bool>());
    }
  });
}

TEST_P(ProcessGroupContract, BroadcastGivesRootsValue) {
  Run([world = GetParam().world](ProcessGroup& group) {
    for (int root = 0; root < world; ++root) {
      const at::Tensor tensor =
          at::full({1000}, 10 * group.rank() + 7, at::TensorOptions().device(group.device()));
      group.Broadcast(tensor, root);
      EXPECT_TRUE(tensor.eq(10 * root + 7).all().item<bool>());
    }
  });
}

TEST_P(ProcessGroupContract, BucketsGiveTheBitsOfAPlainAllReduce) {
  Run([](ProcessGroup& group) {
    at::manual_seed(100 + group.rank());
    const at::Tensor gradient = at::randn({100003}).to(group.device());
    const at::Tensor whole = gradient.clone();
    group.AllReduceSum(whole);
    const GradientBuckets buckets(gradient, 4 * 1000);
    EXPECT_EQ(buckets.buckets().size(), 101u);
    buckets.AllReduceSum(group);
    // At two ranks a sum has one order; a ring over more cuts differently.
    if (group.size() <= 2) {
      EXPECT_TRUE(at::equal(gradient, whole));
    } else {
      EXPECT_TRUE(at::allclose(gradient, whole, 1e-5, 1e-6));
    }
  });
}

TEST_P(ProcessGroupContract, ResultIsTheSameBitsOnEveryRank) {
  Run([](ProcessGroup& group) {
    at::manual_seed(100 + group.rank());
    const at::Tensor sum = at::randn({5000}).to(group.device());
    group.AllReduceSum(sum);
    const at::Tensor from_root = sum.clone();
    group.Broadcast(from_root, 0);
    EXPECT_TRUE(at::equal(sum, from_root));
  });
}

TEST_P(ProcessGroupContract, ManyOperationsInFlightKeepTheirOrder) {
  Run([world = GetParam().world](ProcessGroup& group) {
    std::vector<at::Tensor> tensors;
    std::vector<std::unique_ptr<PendingOperation>> pending;
    for (int i = 0; i < 50; ++i) {
      tensors.push_back(at::full({i + 1}, i, at::TensorOptions().device(group.device())));
      pending.push_back(group.StartAllReduceSum(tensors.back()));
    }
    for (int i = 49; i >= 0; --i) {
      pending[i]->Wait();
      EXPECT_TRUE(tensors[i].eq(i * world).all().item<bool>());
    }
  });
}

TEST_P(ProcessGroupContract, RefusesTensorsThatItCannotReduce) {
  Run([](ProcessGroup& group) {
    const at::Tensor strided = at::zeros({4, 4}, at::TensorOptions().device(group.device())).t();
    EXPECT_THROW(group.AllReduceSum(strided), model::Error);
    EXPECT_THROW(group.AllReduceSum(at::Tensor()), model::Error);
  });
}

INSTANTIATE_TEST_SUITE_P(Kinds, ProcessGroupContract,
                         testing::Values(Case{ProcessGroupKind::kGloo, 1, "Gloo1"},
                                         Case{ProcessGroupKind::kGloo, 2, "Gloo2"},
                                         Case{ProcessGroupKind::kGloo, 3, "Gloo3"},
                                         Case{ProcessGroupKind::kNccl, 1, "Nccl1"}),
                         [](const auto& info) { return info.param.name; });

TEST(GlooGroup, DeathOfAPeerFailsTheOthersWithinTheTimeout) {
  const std::vector<int> codes = RunRanks(ProcessGroupKind::kGloo, 2, [](ProcessGroup& group) {
    if (group.rank() == 1) raise(SIGKILL);
    try {
      group.AllReduceSum(at::ones({4}));
      ADD_FAILURE() << "an all-reduce with a dead peer succeeded";
    } catch (const PeerError& error) {
      EXPECT_THAT(error.what(), HasSubstr("all-reduce on rank 0 of 2 in generation 3"));
      _exit(0);
    }
  });
  EXPECT_EQ(codes, (std::vector<int>{0, 128 + SIGKILL}));
}

TEST(GlooGroup, AbsentPeerIsNamedAfterTheTimeout) {
  const pid_t pid = fork();
  if (pid == 0) {
    int code = 1;
    try {
      const auto rendezvous = Rendezvous::Host("127.0.0.1", std::chrono::milliseconds(300));
      ProcessGroupOptions options;
      options.size = 2;
      options.meeting_timeout = std::chrono::milliseconds(300);
      MakeProcessGroup(*rendezvous, options);
    } catch (const PeerError& error) {
      const std::string what = error.what();
      if (what.find("rank 0 did not meet the other ranks of 2") != std::string::npos) code = 0;
      if (code != 0) std::cerr << what << std::endl;
    }
    _exit(code);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  EXPECT_EQ(status, 0);
}

TEST(Rendezvous, RefusesMalformedAddresses) {
  for (const char* address : {"", "host", "host:", "host:0", "host:65536", "host:12x", ":5"}) {
    EXPECT_THROW(Rendezvous::Connect(address, kTimeout), model::Error) << address;
  }
}

TEST(Rendezvous, RefusesAHostThatIsNotHere) {
  EXPECT_THROW(Rendezvous::Host("192.0.2.1", kTimeout), model::Error);
}

TEST(ProcessGroup, RefusesRanksOutsideTheGroup) {
  const auto rendezvous = Rendezvous::Host("127.0.0.1", kTimeout);
  ProcessGroupOptions options;
  options.rank = 2;
  options.size = 2;
  EXPECT_THROW(MakeProcessGroup(*rendezvous, options), model::Error);
}

TEST(GradientBuckets, RefusesOtherThanFlatFloats) {
  EXPECT_THROW(GradientBuckets(at::zeros({2, 2})), model::Error);
  EXPECT_THROW(GradientBuckets(at::zeros({2}, at::kDouble)), model::Error);
  EXPECT_THROW(GradientBuckets(at::zeros({2}), 3), model::Error);
}

}  // namespace
}  // namespace d2g::collective
