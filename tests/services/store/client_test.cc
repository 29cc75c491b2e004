// What a client's process does that has no server of its own, whose threads gRPC would share.
#include "gtest/gtest.h"
#include "services/store/client/triple_client.h"
#include "tests/testing/status_matchers.h"

namespace d2g::store {
namespace {

using ::d2g::testing::StatusIs;

// One attempt does not wait for a shard that is not there, and a client that goes right after it
// takes the last of gRPC's threads along.
TEST(TripleClientTest, MayGoRightAfterAnAttempt) {
  common::v1::ShardAddress nobody;
  nobody.set_address("127.0.0.1:1");
  for (int round = 0; round < 20; ++round) {
    TripleClient client(nobody);
    EXPECT_THAT(client.ReadTriplesOnce("datasets/d", {0}, absl::Seconds(20)),
                StatusIs(absl::StatusCode::kUnavailable));
  }
}

}  // namespace
}  // namespace d2g::store
