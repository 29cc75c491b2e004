// A process group over one c10d backend. Private to worker/collective.
#pragma once

#include <exception>
#include <memory>

#include "worker/collective/process_group.h"

namespace c10d {
class Backend;
}  // namespace c10d

namespace d2g::collective {

std::unique_ptr<ProcessGroup> MakeGlooGroup(const Rendezvous& rendezvous,
                                            const ProcessGroupOptions& options);
// Throws model::Error in a build without CUDA.
std::unique_ptr<ProcessGroup> MakeNcclGroup(const Rendezvous& rendezvous,
                                            const ProcessGroupOptions& options);
bool IsNcclAvailable();

// The keys of one generation in the rendezvous's store: a new reference that the caller owns.
c10d::Store* GenerationStore(const Rendezvous& rendezvous, int64_t generation);

// Throws PeerError: not all ranks came together.
[[noreturn]] void FailToMeet(const Rendezvous& rendezvous, const ProcessGroupOptions& options,
                             const std::exception& cause);

// Takes over one reference of `backend`, whose ranks are all connected.
std::unique_ptr<ProcessGroup> WrapBackend(c10d::Backend* backend, at::Device device,
                                          const ProcessGroupOptions& options);

}  // namespace d2g::collective
