#include "services/common/version.h"

namespace d2g::common {

const char* Version() { return D2G_VERSION; }

}  // namespace d2g::common
