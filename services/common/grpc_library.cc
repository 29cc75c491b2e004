#include "services/common/grpc_library.h"

#include <cstdlib>

#include "grpc/grpc.h"

namespace d2g::common {
namespace {

bool Initialise() {
  // Read once, by grpc_init. An operator's own value stays.
  setenv("GRPC_CLIENT_CHANNEL_BACKUP_POLL_INTERVAL_MS", "200", /*overwrite=*/0);
  grpc_init();
  return true;
}

}  // namespace

void KeepGrpcInitialised() {
  static const bool once = Initialise();
  static_cast<void>(once);
}

}  // namespace d2g::common
