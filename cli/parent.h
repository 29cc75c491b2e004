// Programs that must not outlive the script that started them.
#pragma once

#include <signal.h>
#include <sys/prctl.h>
#include <sys/types.h>
#include <unistd.h>

namespace d2g::cli {

// From now on SIGTERM comes when the parent ends. `parent` is getppid() as read at the program's
// start; false when it has ended already.
inline bool TieToParent(pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  return getppid() == parent;
}

}  // namespace d2g::cli
