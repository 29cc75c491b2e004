#include "model/files/error.h"
#include "worker/collective/backend_group.h"

#ifdef D2G_CUDA
#include <exception>
#include <string>

#include <ATen/Context.h>
#include <c10/util/intrusive_ptr.h>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>
#endif

namespace d2g::collective {

#ifdef D2G_CUDA

bool IsNcclAvailable() { return at::hasCUDA(); }

std::unique_ptr<ProcessGroup> MakeNcclGroup(const Rendezvous& rendezvous,
                                            const ProcessGroupOptions& options) {
  const at::Device device(at::kCUDA, static_cast<c10::DeviceIndex>(options.device_index));
  try {
    const auto nccl = c10d::ProcessGroupNCCL::Options::create();
    nccl->timeout = options.timeout;
    const auto store =
        c10::intrusive_ptr<c10d::Store>::reclaim(GenerationStore(rendezvous, options.generation));
    store->setTimeout(options.meeting_timeout);
    // NCCL's own meeting waits for ever: here a rank that never comes is given up in time.
    const std::string here = "ranks that are here", all = "all ranks are here";
    if (store->add(here, 1) == options.size) store->set(all, std::string("yes"));
    store->wait({all}, options.meeting_timeout);
    auto backend =
        c10::make_intrusive<c10d::ProcessGroupNCCL>(store, options.rank, options.size, nccl);
    // Connects now instead of at the first operation, so that a missing rank is named here.
    backend->eagerConnectSingleDevice(device);
    return WrapBackend(backend.release(), device, options);
  } catch (const std::exception& error) {
    FailToMeet(rendezvous, options, error);
  }
}

#else

bool IsNcclAvailable() { return false; }

std::unique_ptr<ProcessGroup> MakeNcclGroup(const Rendezvous&, const ProcessGroupOptions&) {
  model::Fail("NCCL is not in this build: configure with -DD2G_CUDA=ON");
}

#endif

}  // namespace d2g::collective
