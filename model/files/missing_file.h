// The exception for a file that is not there.
#pragma once

#include "model/files/error.h"

namespace d2g::model {

// Whether this machine has lost a mount or the folder lacks the file everywhere, only the caller
// can tell (worker/common/torch_status.h).
class MissingFile : public IoError {
 public:
  using IoError::IoError;
};

}  // namespace d2g::model
