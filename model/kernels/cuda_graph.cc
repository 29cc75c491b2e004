#include "model/kernels/cuda_graph.h"

#include <atomic>

#ifdef D2G_CUDA
#include <iterator>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include <ATen/core/CachingHostAllocator.h>
#include <ATen/cuda/CUDAGeneratorImpl.h>
#include <ATen/cuda/CUDAGraph.h>
#include <ATen/cuda/MemPool.h>
#include <c10/core/Event.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace d2g::model {

namespace {

std::atomic<bool> cuda_graphs = true;  // NOLINT: a setting of the process

}  // namespace

void SetCudaGraphs(bool on) { cuda_graphs = on; }

#ifdef D2G_CUDA

namespace {

// LibTorch's random generator keeps a list of the graphs, without a lock of its own.
std::mutex& GraphsMutex() {
  static std::mutex mutex;
  return mutex;
}

// Where a thread records on a device.
class Studio {
 public:
  explicit Studio(c10::DeviceIndex device)
      : device_(device),
        stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device)),
        pool_(at::cuda::MemPool::graph_pool_handle()) {
    c10::cuda::CUDACachingAllocator::createOrIncrefPool(device, pool_);
    // Records take part in the host's pool of that name as well, which needs an owner, too.
    at::HostAllocator* const host = at::getHostAllocator(at::kCUDA);
    host->begin_allocate_to_pool(pool_, [](c10::Stream) { return false; });
    host->end_allocate_to_pool(pool_);
  }
  ~Studio() {
    try {
      c10::cuda::CUDACachingAllocator::releasePool(device_, pool_);
      at::getHostAllocator(at::kCUDA)->release_pool(pool_);
      c10::cuda::CUDACachingAllocator::emptyCache(pool_);
    } catch (const c10::Error& error) {
      TORCH_WARN("memory of CUDA graphs is not given back: ", error.what_without_backtrace());
    }
  }
  Studio(const Studio&) = delete;
  Studio& operator=(const Studio&) = delete;

  c10::cuda::CUDAStream stream() const { return stream_; }
  c10::MempoolId_t pool() const { return pool_; }

 private:
  const c10::DeviceIndex device_;
  // The default stream cannot record. Always the same one: cuBLAS keeps a workspace for every
  // stream that it has seen.
  const c10::cuda::CUDAStream stream_;
  // Always the same one: the memory of a pool that has ended stays the device's until none is left,
  // and giving it back waits for the device.
  const c10::MempoolId_t pool_;
};

// Its studios, by device. Not destroyed with the thread: CUDA may be gone by then.
std::vector<Studio*>& Studios() {
  static thread_local std::vector<Studio*> studios;
  return studios;
}

Studio& StudioOf(c10::DeviceIndex device) {
  std::vector<Studio*>& studios = Studios();
  const auto i = static_cast<size_t>(device);
  if (studios.size() <= i) studios.resize(i + 1);
  if (studios[i] == nullptr) studios[i] = new Studio(device);
  return *studios[i];
}

class Graph : public at::cuda::CUDAGraph {
 public:
  // After a capture that failed: takes the random generators out of it. They would go on recording,
  // and one that capture_begin did not get to the end with would fail the destructor.
  void Forget() {
    for (auto it = captured_generator_states_.begin(); it != captured_generator_states_.end();) {
      it->first->capturing_ = false;
      const bool registered = it->first->registered_graphs_.count(this) > 0;
      it = registered ? std::next(it) : captured_generator_states_.erase(it);
    }
  }
};

// `later` goes on when all that `earlier` has now is done.
void Follow(const c10::cuda::CUDAStream& later, const c10::cuda::CUDAStream& earlier) {
  c10::Event event(at::kCUDA);
  event.record(earlier.unwrap());
  event.block(later.unwrap());
}

class CudaGraph final : public WorkRecorder {
 public:
  explicit CudaGraph(c10::DeviceIndex device) : device_(device) {}
  ~CudaGraph() override {
    const std::lock_guard lock(GraphsMutex());
    graph_.reset();
  }

  void WarmUp(const Work& work) override { InStudio(work); }

  void Record(const Work& work) override {
    InStudio([&] {
      const std::lock_guard lock(GraphsMutex());
      graph_.emplace();
      try {
        // Other threads go on allocating and copying meanwhile.
        graph_->capture_begin(StudioOf(device_).pool(), cudaStreamCaptureModeThreadLocal);
        work();
        graph_->capture_end();
      } catch (...) {
        Abandon();
        throw;
      }
    });
  }

  void Replay() override { graph_->replay(); }

 private:
  void InStudio(const Work& work) {
    const c10::cuda::CUDAGuard on_device(device_);
    const c10::cuda::CUDAStream stream = StudioOf(device_).stream();
    const c10::cuda::CUDAStream current = c10::cuda::getCurrentCUDAStream(device_);
    Follow(stream, current);
    {
      const c10::cuda::CUDAStreamGuard guard(stream);
      work();
    }
    Follow(current, stream);
  }

  // Ends what capture_begin has begun, as far as it came: a capture that failed leaves the stream,
  // the allocators and the random generator recording.
  void Abandon() {
    const auto attempt = [](const Work& end) {
      try {
        end();
      } catch (const c10::Error&) {
        // It was not begun, or has ended.
      }
    };
    const c10::MempoolId_t pool = StudioOf(device_).pool();
    attempt([&] { graph_->capture_end(); });
    // Where that failed, the pools' shares that capture_begin took are still the recorder's.
    attempt([&] {
      c10::cuda::CUDACachingAllocator::endAllocateToPool(device_, pool);
      c10::cuda::CUDACachingAllocator::releasePool(device_, pool);
    });
    attempt([&] {
      at::HostAllocator* const host = at::getHostAllocator(at::kCUDA);
      host->end_allocate_to_pool(pool);
      host->release_pool(pool);
    });
    graph_->Forget();
    graph_.reset();
  }

  const c10::DeviceIndex device_;
  std::optional<Graph> graph_;
};

}  // namespace

std::unique_ptr<WorkRecorder> MakeCudaGraph(at::Device device) {
  if (!device.is_cuda() || !cuda_graphs) return nullptr;
  return std::make_unique<CudaGraph>(device.has_index() ? device.index()
                                                        : c10::cuda::current_device());
}

bool ReleaseGraphMemory() {
  bool any = false;
  for (Studio*& studio : Studios()) {
    any |= studio != nullptr;
    delete std::exchange(studio, nullptr);
  }
  return any;
}

#else

std::unique_ptr<WorkRecorder> MakeCudaGraph(at::Device) { return nullptr; }

bool ReleaseGraphMemory() { return false; }

#endif

}  // namespace d2g::model
