// A runner with its coordinator, a real shard that can be killed, and a tiny teacher.
#pragma once

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <csignal>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "model/folder/model_folder.h"
#include "services/common/port_file.h"
#include "services/common/prompts.h"
#include "services/store/client/triple_client.h"
#include "tests/testing/fake_coordinator.h"
#include "tests/testing/process.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/torch/tiny_teacher.h"
#include "tests/testing/wait.h"
#include "worker/simulate/simulate_runner.h"

namespace d2g::simulate {

inline constexpr char kPrompts[] =
    "a dark shoe\na light shirt\na bag\nsmall grey trousers\na coat\n";
inline constexpr char kDataset[] = "datasets/d";

// A real shard in a process of its own, which can be killed.
class Shard {
 public:
  explicit Shard(const testing::TempDir& dir) : dir_(dir) { Start("127.0.0.1:0"); }

  void Kill() {
    process_->Signal(SIGKILL);
    process_->Wait();
  }
  // `min_free` is what it keeps free on its disk.
  void Restart(const std::string& min_free = "0") { Start(address_, min_free); }
  const std::string& address() const { return address_; }

 private:
  void Start(const std::string& listen, const std::string& min_free = "0") {
    const std::string port_file = dir_.File("store.ports");
    std::remove(port_file.c_str());
    process_ = std::make_unique<testing::Process>(std::vector<std::string>{
        "d2g-store", "--listen", listen, "--data-dir", dir_.File("store"), "--shard", "0",
        "--port-file", port_file, "--min-free-bytes", min_free, "--min-free-share", "0"});
    ASSERT_TRUE(testing::WaitFor([&] { return common::ReadPortFile(port_file).ok(); }))
        << process_->Output();
    address_ = "127.0.0.1:" + std::to_string(common::ReadPortFile(port_file)->grpc);
  }

  const testing::TempDir& dir_;
  std::string address_;
  std::unique_ptr<testing::Process> process_;
};

class SimulateRunnerTest : public ::testing::Test {
 protected:
  SimulateRunnerTest() : shard_(dir_), client_(coordinator_.address()), metrics_("test") {
    at::set_num_threads(1);
    testing::WriteTinyTeacher(dir_.File("teacher"));
    const auto prompts = common::ParsePromptList(kPrompts);
    coordinator_.jobs().AddPromptList(prompts->digest, kPrompts);
    task_.set_name("jobs/a/tasks/1");
    auto& work = *task_.mutable_simulate();
    work.set_dataset(kDataset);
    work.mutable_range()->set_begin(3);
    work.mutable_range()->set_end(23);
    work.mutable_shard()->set_address(shard_.address());
    work.set_teacher_path(dir_.File("teacher"));
    work.set_batch_size(8);
    auto& recipe = *work.mutable_recipe();
    recipe.set_teacher_digest(model::InspectModelFolder(dir_.File("teacher"))->digest);
    recipe.set_prompts_digest(prompts->digest);
    recipe.set_prompt_count(static_cast<int64_t>(prompts->lines.size()));
    recipe.mutable_solver()->set_kind("ddim");
    recipe.mutable_solver()->set_steps(4);
    recipe.mutable_solver()->set_guidance(2.5);
    recipe.set_latent_channels(testing::kTinyLatentChannels);
    recipe.set_latent_height(testing::kTinyLatentSide);
    recipe.set_latent_width(testing::kTinyLatentSide);
    recipe.set_storage_dtype(common::v1::DTYPE_FP32);
    recipe.set_seed(77);
    recipe.set_block_size(32);
    recipe.set_shard_count(1);
  }

  coordinator::v1::SimulateWork& work() { return *task_.mutable_simulate(); }
  common::v1::DatasetRecipe& recipe() { return *work().mutable_recipe(); }

  absl::Status Run(lease::TaskContext* context) {
    SimulateRunner runner({.patience = absl::Seconds(60), .flush_patience = flush_patience_},
                          &client_, &metrics_);
    result_.Clear();
    return runner.Run(task_, context, &result_);
  }
  absl::Status Run() {
    lease::TaskContext context;
    return Run(&context);
  }
  absl::StatusOr<std::vector<store::v1::Triple>> Read(int64_t begin, int64_t end) {
    std::vector<int64_t> indices;
    for (int64_t index = begin; index < end; ++index) indices.push_back(index);
    return store::TripleClient(work().shard())
        .ReadTriples(work().dataset(), indices, absl::Now() + absl::Seconds(20));
  }
  double Value(const std::string& line_start) {
    const std::string text = metrics_.Expose();
    const size_t at = text.find("\n" + line_start + " ");
    return at == std::string::npos ? -1 : std::stod(text.substr(at + line_start.size() + 2));
  }

  testing::TempDir dir_;
  testing::FakeCoordinator coordinator_;
  Shard shard_;
  coordinator::CoordinatorClient client_;
  common::Metrics metrics_;
  coordinator::v1::Task task_;
  coordinator::v1::CompleteTaskRequest result_;
  absl::Duration flush_patience_ = absl::Seconds(5);
};

}  // namespace d2g::simulate
