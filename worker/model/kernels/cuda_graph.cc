#include "worker/model/kernels/cuda_graph.h"

#ifdef D2G_CUDA
#include <optional>
#include <vector>

#include <ATen/core/CachingHostAllocator.h>
#include <ATen/cuda/CUDAGraph.h>
#include <ATen/cuda/MemPool.h>
#include <c10/core/Event.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace d2g::model {

#ifdef D2G_CUDA

namespace {

// The default stream cannot record. One for each thread and device, always the same: cuBLAS keeps a
// workspace for every stream that it has seen.
c10::cuda::CUDAStream RecordingStream(c10::DeviceIndex device) {
  static thread_local std::vector<std::optional<c10::cuda::CUDAStream>> streams;
  const auto i = static_cast<size_t>(device);
  if (streams.size() <= i) streams.resize(i + 1);
  if (!streams[i]) streams[i] = c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device);
  return *streams[i];
}

// `later` goes on when all that `earlier` has now is done.
void Follow(const c10::cuda::CUDAStream& later, const c10::cuda::CUDAStream& earlier) {
  c10::Event event(at::kCUDA);
  event.record(earlier.unwrap());
  event.block(later.unwrap());
}

class CudaGraph final : public WorkRecorder {
 public:
  explicit CudaGraph(c10::DeviceIndex device) : stream_(RecordingStream(device)) {}

  void WarmUp(const Work& work) override { OnRecordingStream(work); }

  void Record(const Work& work) override {
    OnRecordingStream([&] {
      pool_.emplace();
      graph_.emplace();
      // Other threads go on allocating and copying meanwhile.
      try {
        graph_->capture_begin(pool_->id(), cudaStreamCaptureModeThreadLocal);
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
  void OnRecordingStream(const Work& work) {
    const c10::cuda::CUDAStream current = c10::cuda::getCurrentCUDAStream(stream_.device_index());
    Follow(stream_, current);
    {
      const c10::cuda::CUDAStreamGuard guard(stream_);
      work();
    }
    Follow(current, stream_);
  }

  // Ends what capture_begin has begun, as far as it came: a capture that failed leaves the stream
  // and the allocators recording.
  void Abandon() {
    const auto attempt = [](const Work& end) {
      try {
        end();
      } catch (const c10::Error&) {
        // It was not begun, or has ended.
      }
    };
    const c10::MempoolId_t pool = pool_->id();
    attempt([&] { graph_->capture_end(); });
    // Where that failed, the pools' shares that capture_begin took are still the recorder's.
    attempt([&] {
      c10::cuda::CUDACachingAllocator::endAllocateToPool(stream_.device_index(), pool);
      c10::cuda::CUDACachingAllocator::releasePool(stream_.device_index(), pool);
    });
    attempt([&] {
      at::getHostAllocator(at::kCUDA)->end_allocate_to_pool(pool);
      at::getHostAllocator(at::kCUDA)->release_pool(pool);
    });
    graph_.reset();
  }

  const c10::cuda::CUDAStream stream_;
  // Returned to the device with the recorder: a graph's own pool would stay until memory runs out.
  std::optional<at::cuda::MemPool> pool_;
  std::optional<at::cuda::CUDAGraph> graph_;
};

}  // namespace

std::unique_ptr<WorkRecorder> MakeCudaGraph(at::Device device) {
  if (!device.is_cuda()) return nullptr;
  return std::make_unique<CudaGraph>(device.has_index() ? device.index()
                                                        : c10::cuda::current_device());
}

#else

std::unique_ptr<WorkRecorder> MakeCudaGraph(at::Device) { return nullptr; }

#endif

}  // namespace d2g::model
