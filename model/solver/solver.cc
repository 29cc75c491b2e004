#include "model/solver/solver.h"

#include "model/files/error.h"
#include "model/solver/ddim_solver.h"
#include "model/solver/dpm_solver.h"
#include "model/solver/euler_solver.h"
#include "model/solver/heun_solver.h"
#include "model/solver/run_check.h"

namespace d2g::model {

std::unique_ptr<Solver> MakeSolver(const SchedulerConfig& config, int64_t steps) {
  CheckRun(config, steps);
  switch (config.kind) {
    case SolverKind::kDdim:
      return std::make_unique<DdimSolver>(config, steps);
    case SolverKind::kEuler:
      return std::make_unique<EulerSolver>(config, steps);
    case SolverKind::kDpmpp2m:
      return std::make_unique<DpmSolver>(config, steps);
    case SolverKind::kHeun:
      return std::make_unique<HeunSolver>(config, steps);
  }
  Fail("unknown solver");
}

}  // namespace d2g::model
