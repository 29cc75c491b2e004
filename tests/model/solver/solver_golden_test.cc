// Every solver against diffusers, on random scheduler files.
#include "model/files/json_config.h"
#include "model/solver/solver.h"
#include "tests/model/golden.h"

namespace d2g::model {
namespace {

at::Tensor Network(const at::Tensor& z, double timestep) {
  return at::tanh(0.7 * z + 0.2) + 0.0003 * timestep;
}

TEST(SolverGoldenTest, AgreesWithDiffusers) {
  const nlohmann::json cases = ReadJsonFile(GoldenFolder("solver") + "/golden.json");
  const TensorMap golden = Golden("solver");
  ASSERT_GE(cases.size(), 200);
  for (size_t n = 0; n < cases.size(); ++n) {
    const nlohmann::json& item = cases[n];
    const auto file = item["file"].get<std::string>();
    const auto steps = item["steps"].get<int64_t>();
    SCOPED_TRACE(item["kind"].get<std::string>() + ", " + std::to_string(steps) + " steps, " +
                 file);
    const SchedulerConfig config = SchedulerConfig::FromJson(
        file, "scheduler_config.json", ParseSolverKind(item["kind"].get<std::string>()));
    const std::unique_ptr<Solver> solver = MakeSolver(config, steps);
    EXPECT_NEAR(solver->init_noise_sigma(), item["init_noise_sigma"].get<double>(),
                1e-6 * solver->init_noise_sigma());

    const at::Tensor& timesteps = golden.at("timesteps." + std::to_string(n));
    ASSERT_EQ(static_cast<int64_t>(solver->timesteps().size()), timesteps.numel());
    at::Tensor z = golden.at("noise") * solver->init_noise_sigma();
    for (size_t i = 0; i < solver->timesteps().size(); ++i) {
      const double timestep = solver->timesteps()[i];
      EXPECT_NEAR(timestep, timesteps[static_cast<int64_t>(i)].item<double>(), 1e-4) << i;
      z = solver->Step(Network(solver->ScaleInput(z, i), timestep), i, z);
    }
    EXPECT_LE(RelativeDifference(z, golden.at("latents." + std::to_string(n))), 1e-4);
  }
}

}  // namespace
}  // namespace d2g::model
