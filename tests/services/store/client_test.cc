// What a client's process does that has no server of its own, whose threads gRPC would share.
#include <memory>

#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"
#include "services/store/client/triple_client.h"
#include "tests/testing/status_matchers.h"

namespace d2g::store {
namespace {

using ::d2g::testing::StatusIs;

struct Call {
  absl::Notification answered, gone;
  absl::Status status;
};

// gRPC's threads for callbacks end with the last channel that used them, and whoever lets go of it
// waits for them: a callback that still held the channel would wait for itself.
TEST(TripleClientTest, MayGoWhileTheLastCallbackIsStillRunning) {
  d2g::common::v1::ShardAddress nobody;
  nobody.set_address("127.0.0.1:1");
  for (int round = 0; round < 20; ++round) {
    auto client = std::make_unique<TripleClient>(nobody);
    const auto call = std::make_shared<Call>();
    client->ReadTriplesAsync("datasets/d", {0}, absl::Seconds(20), [call](const auto& answer) {
      call->status = answer.status();
      call->answered.Notify();
      // As long as the client takes to go, or to wait for this callback.
      call->gone.WaitForNotificationWithTimeout(absl::Milliseconds(50));
    });
    call->answered.WaitForNotification();
    client.reset();
    call->gone.Notify();
    EXPECT_THAT(call->status, StatusIs(absl::StatusCode::kUnavailable));
  }
}

}  // namespace
}  // namespace d2g::store
