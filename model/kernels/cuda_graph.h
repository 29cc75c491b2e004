// Work recorded as a CUDA graph, to be given to the GPU again in one piece: where an evaluation is
// small, launching its thousands of kernels takes longer than running them.
#pragma once

#include <functional>
#include <memory>

#include <ATen/ATen.h>

namespace d2g::model {

// Records one call's work on a device. Used in this order, from one thread: WarmUp, Record, Replay
// any number of times. After an exception only destruction is useful; the device is then as usable
// as before.
class WorkRecorder {
 public:
  using Work = std::function<void()>;

  virtual ~WorkRecorder() = default;

  // Runs `work` where it will be recorded, so that its libraries have loaded their kernels, chosen
  // their algorithms and taken their workspaces. What is given to the current stream before and
  // after this call runs before and after it.
  virtual void WarmUp(const Work& work) = 0;
  // Calls `work` once, which allocates what it returns but computes nothing: it may neither read
  // values nor copy from the host. Tensors that it uses must live, at their places, until the last
  // Replay, and those that it makes must be gone before the recorder is.
  virtual void Record(const Work& work) = 0;
  // Gives the recorded work to the current stream: computes from what the tensors hold then.
  virtual void Replay() = 0;
};

// nullptr for a device other than a GPU, where SetCudaGraphs has said no, and in builds without
// D2G_CUDA. The memory that a record needs, about as much as its work takes otherwise, stays with
// its thread for the next one. Thread-safe; so are the recorders of different threads.
std::unique_ptr<WorkRecorder> MakeCudaGraph(at::Device device);

// Gives that of the calling thread back, which may have no recorder then. False if there is none.
bool ReleaseGraphMemory();

// Whether this process records at all, which it does unless told otherwise. Thread-safe.
void SetCudaGraphs(bool on);

}  // namespace d2g::model
