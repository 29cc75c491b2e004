#include "worker/collective/process_group.h"

#include "model/files/error.h"
#include "worker/collective/backend_group.h"

namespace d2g::collective {

bool IsAvailable(ProcessGroupKind kind) {
  return kind == ProcessGroupKind::kGloo || IsNcclAvailable();
}

std::unique_ptr<ProcessGroup> MakeProcessGroup(const Rendezvous& rendezvous,
                                               const ProcessGroupOptions& options) {
  if (options.size < 1 || options.rank < 0 || options.rank >= options.size) {
    model::Fail("process group rank is ", options.rank, " of ", options.size,
                "; must be 0 to size - 1");
  }
  return options.kind == ProcessGroupKind::kGloo ? MakeGlooGroup(rendezvous, options)
                                                 : MakeNcclGroup(rendezvous, options);
}

}  // namespace d2g::collective
