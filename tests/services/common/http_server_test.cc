// The HTTP server against slow, silent and deaf clients, with real sockets.
#include "services/common/http_server.h"

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/http_get.h"
#include "tests/testing/slow_client.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/wait.h"

namespace d2g::common {
namespace {

using ::d2g::testing::HttpGet;
using ::d2g::testing::SlowClient;
using ::d2g::testing::WaitFor;
using ::testing::AllOf;
using ::testing::HasSubstr;

// More than the kernel buffers for a client that does not read.
constexpr size_t kLargeBody = size_t{32} << 20;

std::vector<HttpRoute> Routes() {
  return {{.path = "/quick", .immediate = true, .answer = [] { return HttpAnswer{.body = "q\n"}; }},
          {.path = "/large", .content_type = "text/plain", .answer = [] {
             return HttpAnswer{.body = std::string(kLargeBody, 'x')};
           }}};
}

TEST(HttpServerTest, AnswersGetAndHeadOfItsPathsAndNothingElse) {
  ASSERT_OK_AND_ASSIGN(const auto server, HttpServer::Start("127.0.0.1:0", Routes()));
  EXPECT_THAT(HttpGet(server->port(), "/quick"),
              AllOf(HasSubstr("200 OK"), HasSubstr("text/plain"), HasSubstr("\r\n\r\nq\n")));
  EXPECT_THAT(HttpGet(server->port(), "/quick?a=b"), HasSubstr("200 OK"));
  EXPECT_GT(HttpGet(server->port(), "/large").size(), kLargeBody);
  EXPECT_THAT(HttpGet(server->port(), "/else"), HasSubstr("404"));
  SlowClient head(server->port());
  head.Send("HEAD /quick HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(head.ReadToEnd(), AllOf(HasSubstr("200 OK"), ::testing::EndsWith("\r\n\r\n")));
  SlowClient post(server->port());
  post.Send("POST /quick HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc");
  EXPECT_THAT(post.ReadToEnd(), HasSubstr("404"));
  SlowClient garbage(server->port());
  garbage.Send("\x16\x03\x01 nonsense\r\n\r\n");
  EXPECT_THAT(garbage.ReadToEnd(), ::testing::Not(HasSubstr("200")));
}

TEST(HttpServerTest, ARequestHasOneDeadlineHoweverBusyItLooks) {
  const absl::Duration deadline = absl::Milliseconds(400);
  ASSERT_OK_AND_ASSIGN(const auto server,
                       HttpServer::Start("127.0.0.1:0", Routes(), {.deadline = deadline}));
  const absl::Time start = absl::Now();
  SlowClient silent(server->port());
  SlowClient drips(server->port());
  drips.Send("GET /quick HTTP/1.1\r\nX: ");
  SlowClient deaf(server->port());
  deaf.Send("GET /large HTTP/1.1\r\n\r\n");
  // Each byte comes well before any patience with a silent client ends.
  EXPECT_TRUE(WaitFor([&] { return !drips.Send("x") || absl::Now() - start > 20 * deadline; }));
  EXPECT_LT(absl::Now() - start, 10 * deadline);
  EXPECT_GE(absl::Now() - start, deadline);
  EXPECT_EQ(silent.ReadToEnd(), "");
  EXPECT_LT(deaf.ReadToEnd().size(), kLargeBody);
}

TEST(HttpServerTest, TheOldestConnectionMakesRoomForTheNext) {
  ASSERT_OK_AND_ASSIGN(const auto server,
                       HttpServer::Start("127.0.0.1:0", Routes(),
                                         {.deadline = absl::Hours(1), .max_connections = 4}));
  std::vector<std::unique_ptr<SlowClient>> silent;
  for (int i = 0; i < 64; ++i) {
    silent.push_back(std::make_unique<SlowClient>(server->port()));
    EXPECT_THAT(HttpGet(server->port(), "/quick"), HasSubstr("200 OK"));
  }
  // The first are gone, the last may stay for the hour.
  for (int i = 0; i < 60; ++i) EXPECT_EQ(silent[i]->ReadToEnd(), "");
  EXPECT_TRUE(silent.back()->IsOpen());
}

TEST(HttpServerTest, ACallThatHangsHoldsUpOnlyItsOwnRoute) {
  absl::Notification release;
  std::vector<HttpRoute> routes = Routes();
  routes.push_back({.path = "/stuck", .answer = [&release] {
                      release.WaitForNotification();
                      return HttpAnswer{.body = "free\n"};
                    }});
  ASSERT_OK_AND_ASSIGN(const auto server,
                       HttpServer::Start("127.0.0.1:0", std::move(routes),
                                         {.deadline = absl::Seconds(3), .max_connections = 8}));
  // More than fit, so that those that wait are closed too, some for age and some for room.
  std::vector<std::unique_ptr<SlowClient>> waiting;
  for (int i = 0; i < 32; ++i) {
    waiting.push_back(std::make_unique<SlowClient>(server->port()));
    waiting.back()->Send("GET /stuck HTTP/1.1\r\n\r\n");
  }
  EXPECT_THAT(HttpGet(server->port(), "/quick"), HasSubstr("200 OK"));
  // The deadline leaves time for a body of this size on a machine that has other work.
  EXPECT_GT(HttpGet(server->port(), "/large").size(), kLargeBody);
  for (const auto& client : waiting) EXPECT_EQ(client->ReadToEnd(), "");
  release.Notify();
  EXPECT_THAT(HttpGet(server->port(), "/stuck"), HasSubstr("free"));
}

TEST(HttpServerTest, StopsWhileClientsWait) {
  absl::Notification called;
  absl::Notification release;
  ASSERT_OK_AND_ASSIGN(auto server,
                       HttpServer::Start("127.0.0.1:0", {{.path = "/stuck", .answer = [&] {
                                                            called.Notify();
                                                            release.WaitForNotification();
                                                            return HttpAnswer{.body = "x"};
                                                          }}}));
  SlowClient waits(server->port());
  waits.Send("GET /stuck HTTP/1.1\r\n\r\n");
  SlowClient silent(server->port());
  called.WaitForNotification();
  std::thread stop([&server] { server.reset(); });
  EXPECT_EQ(silent.ReadToEnd(), "");
  EXPECT_EQ(waits.ReadToEnd(), "");
  release.Notify();
  stop.join();
}

}  // namespace
}  // namespace d2g::common
