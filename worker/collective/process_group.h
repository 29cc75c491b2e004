// Collective operations among the ranks of one generation.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include <ATen/core/Tensor.h>

#include "worker/collective/rendezvous.h"

namespace d2g::collective {

// What carries the tensors.
enum class ProcessGroupKind {
  kGloo,  // CPU tensors over TCP
  kNccl,  // CUDA tensors; only in builds with D2G_CUDA
};

// An operation under way. The tensor must stay alive and untouched until Wait returns.
class PendingOperation {
 public:
  virtual ~PendingOperation() = default;
  // Blocks until the result is in the tensor (on CUDA: until the current stream will see it).
  // Throws PeerError naming operation, rank and cause: a peer that died or the timeout.
  virtual void Wait() = 0;
};

// All ranks must call the same operations with equally shaped tensors in the same order. After a
// failure the group is of no more use: the process is expected to exit, since Gloo cannot abort an
// operation. Results are the same bits on every rank, and from run to run at the same world size.
// Not thread-safe.
class ProcessGroup {
 public:
  virtual ~ProcessGroup() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  // Where its tensors must be.
  virtual at::Device device() const = 0;

  // Replaces `tensor` (contiguous) by the sum over ranks.
  virtual std::unique_ptr<PendingOperation> StartAllReduceSum(const at::Tensor& tensor) = 0;
  // Replaces `tensor` (contiguous) by root's.
  virtual void Broadcast(const at::Tensor& tensor, int root) = 0;
  // Returns when every rank has called it.
  virtual void Barrier() = 0;

  void AllReduceSum(const at::Tensor& tensor) { StartAllReduceSum(tensor)->Wait(); }
};

struct ProcessGroupOptions {
  ProcessGroupKind kind = ProcessGroupKind::kGloo;
  int rank = 0;
  int size = 1;
  // Keeps the keys of one membership apart from another's in the same store.
  int64_t generation = 1;
  // Name or address of this machine that peers reach it under (Gloo).
  std::string host = "127.0.0.1";
  // This rank's GPU (NCCL).
  int device_index = 0;
  // Limit of meeting the others.
  std::chrono::milliseconds meeting_timeout = std::chrono::minutes(5);
  // Limit of each operation.
  std::chrono::milliseconds timeout = std::chrono::minutes(5);
};

// Meets the other ranks; returns once all `size` of them are connected. `rendezvous` must outlive
// the group. Throws PeerError when they do not come within meeting_timeout, model::Error when rank
// or size make no sense or the kind is not in this build.
std::unique_ptr<ProcessGroup> MakeProcessGroup(const Rendezvous& rendezvous,
                                               const ProcessGroupOptions& options);

// Whether MakeProcessGroup can make `kind` on this machine.
bool IsAvailable(ProcessGroupKind kind);

}  // namespace d2g::collective
