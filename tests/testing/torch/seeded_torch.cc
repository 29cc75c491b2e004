// Seeds LibTorch before each test: its generator starts from the system's randomness, and a test
// that fails has to fail again.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace d2g::testing {
namespace {

class SeedEachTest final : public ::testing::EmptyTestEventListener {
  void OnTestStart(const ::testing::TestInfo& /*test*/) override { at::manual_seed(1); }
};

// NOLINTNEXTLINE: before main, which is GoogleTest's; it owns the listener.
const bool registered =
    (::testing::UnitTest::GetInstance()->listeners().Append(new SeedEachTest), true);

}  // namespace
}  // namespace d2g::testing
