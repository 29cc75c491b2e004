#include "services/common/grpc_library.h"

#include "grpc/grpc.h"

namespace d2g::common {

void KeepGrpcInitialised() {
  static const bool once = (grpc_init(), true);
  static_cast<void>(once);
}

}  // namespace d2g::common
