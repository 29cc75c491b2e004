#include "worker/collective/backend_group.h"

#include <exception>
#include <sstream>
#include <utility>
#include <vector>

#include <c10/util/intrusive_ptr.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include "model/files/error.h"
#include "worker/collective/first_line.h"

namespace d2g::collective {
namespace {

using Work = c10::intrusive_ptr<c10d::Work>;

[[noreturn]] void FailOperation(const char* operation, const ProcessGroupOptions& options,
                                const std::string& cause) {
  std::ostringstream message;
  message << operation << " on rank " << options.rank << " of " << options.size << " in generation "
          << options.generation << " (timeout " << options.timeout.count() << " ms): " << cause;
  throw PeerError(message.str());
}

class BackendOperation : public PendingOperation {
 public:
  BackendOperation(const char* operation, const ProcessGroupOptions& options, Work work)
      : operation_(operation), options_(options), work_(std::move(work)) {}

  void Wait() override {
    try {
      if (!work_->wait()) FailOperation(operation_, options_, "aborted");
    } catch (const PeerError&) {
      throw;
    } catch (const std::exception& error) {
      FailOperation(operation_, options_, FirstLine(error));
    }
  }

 private:
  const char* operation_;
  const ProcessGroupOptions options_;
  const Work work_;
};

class BackendGroup : public ProcessGroup {
 public:
  BackendGroup(c10::intrusive_ptr<c10d::Backend> backend, at::Device device,
               ProcessGroupOptions options)
      : backend_(std::move(backend)), device_(device), options_(std::move(options)) {}

  int rank() const override { return options_.rank; }
  int size() const override { return options_.size; }
  at::Device device() const override { return device_; }

  std::unique_ptr<PendingOperation> StartAllReduceSum(const at::Tensor& tensor) override {
    CheckTensor(tensor, "all-reduce");
    return Start("all-reduce", [&] {
      std::vector<at::Tensor> tensors{tensor};
      c10d::AllreduceOptions reduce;
      reduce.timeout = options_.timeout;
      return backend_->allreduce(tensors, reduce);
    });
  }

  void Broadcast(const at::Tensor& tensor, int root) override {
    CheckTensor(tensor, "broadcast");
    if (root < 0 || root >= options_.size) {
      model::Fail("broadcast root is ", root, "; must be 0 to ", options_.size - 1);
    }
    Start("broadcast", [&] {
      std::vector<at::Tensor> tensors{tensor};
      c10d::BroadcastOptions broadcast;
      broadcast.rootRank = root;
      broadcast.timeout = options_.timeout;
      return backend_->broadcast(tensors, broadcast);
    })->Wait();
  }

  void Barrier() override {
    Start("barrier", [&] {
      c10d::BarrierOptions barrier;
      barrier.timeout = options_.timeout;
      barrier.device = device_;
      return backend_->barrier(barrier);
    })->Wait();
  }

 private:
  template <typename StartWork>
  std::unique_ptr<PendingOperation> Start(const char* operation, StartWork start) {
    try {
      return std::make_unique<BackendOperation>(operation, options_, start());
    } catch (const std::exception& error) {
      FailOperation(operation, options_, FirstLine(error));
    }
  }

  void CheckTensor(const at::Tensor& tensor, const char* operation) const {
    if (!tensor.defined() || !tensor.is_contiguous() || tensor.device() != device_) {
      model::Fail(operation, " needs a contiguous tensor on ", device_.str());
    }
  }

  const c10::intrusive_ptr<c10d::Backend> backend_;
  const at::Device device_;
  const ProcessGroupOptions options_;
};

}  // namespace

c10d::Store* GenerationStore(const Rendezvous& rendezvous, int64_t generation) {
  const auto store = c10::intrusive_ptr<c10d::Store>::reclaim_copy(&rendezvous.store());
  return c10::make_intrusive<c10d::PrefixStore>("generation/" + std::to_string(generation), store)
      .release();
}

void FailToMeet(const Rendezvous& rendezvous, const ProcessGroupOptions& options,
                const std::exception& cause) {
  std::ostringstream message;
  message << "rank " << options.rank << " did not meet the other ranks of " << options.size
          << " through " << rendezvous.address() << " within " << options.meeting_timeout.count()
          << " ms: " << FirstLine(cause);
  throw PeerError(message.str());
}

std::unique_ptr<ProcessGroup> WrapBackend(c10d::Backend* backend, at::Device device,
                                          const ProcessGroupOptions& options) {
  return std::make_unique<BackendGroup>(c10::intrusive_ptr<c10d::Backend>::reclaim(backend), device,
                                        options);
}

}  // namespace d2g::collective
