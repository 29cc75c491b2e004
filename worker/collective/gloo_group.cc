#include <exception>

#include <c10/util/intrusive_ptr.h>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "worker/collective/backend_group.h"

namespace d2g::collective {

std::unique_ptr<ProcessGroup> MakeGlooGroup(const Rendezvous& rendezvous,
                                            const ProcessGroupOptions& options) {
  try {
    const auto gloo = c10d::ProcessGroupGloo::Options::create(options.meeting_timeout);
    gloo->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(options.host));
    const auto store =
        c10::intrusive_ptr<c10d::Store>::reclaim(GenerationStore(rendezvous, options.generation));
    store->setTimeout(options.meeting_timeout);
    auto backend =
        c10::make_intrusive<c10d::ProcessGroupGloo>(store, options.rank, options.size, gloo);
    return WrapBackend(backend.release(), at::Device(at::kCPU), options);
  } catch (const std::exception& error) {
    FailToMeet(rendezvous, options, error);
  }
}

}  // namespace d2g::collective
