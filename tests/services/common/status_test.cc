// Status macros and the gRPC converters.
#include <string>

#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "gtest/gtest.h"
#include "services/common/grpc_status.h"
#include "services/common/status_macros.h"
#include "services/common/utf8.h"
#include "tests/testing/status_matchers.h"

namespace d2g::common {
namespace {

using ::d2g::testing::IsOk;
using ::d2g::testing::IsOkAndHolds;
using ::d2g::testing::StatusIs;
using ::testing::HasSubstr;
using ::testing::SizeIs;

absl::StatusOr<int> Half(int value) {
  if (value % 2 != 0) return absl::InvalidArgumentError("odd");
  return value / 2;
}

absl::StatusOr<int> Quarter(int value) {
  D2G_ASSIGN_OR_RETURN(const int half, Half(value));
  D2G_ASSIGN_OR_RETURN(const int quarter, Half(half));
  return quarter;
}

absl::Status CheckQuarter(int value) {
  D2G_RETURN_IF_ERROR(Quarter(value).status());
  return absl::OkStatus();
}

TEST(StatusMacrosTest, PassesValuesAndErrorsOn) {
  EXPECT_THAT(Quarter(12), IsOkAndHolds(3));
  EXPECT_THAT(Quarter(6), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("odd")));
  EXPECT_THAT(CheckQuarter(4), IsOk());
  EXPECT_THAT(CheckQuarter(5), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(StatusMacrosTest, AnnotateKeepsCodeAndDetails) {
  const absl::Status status = Annotate(BadRequest({{"a", "is 0; the limit is 1"}}), "job 7");
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("job 7: a: is 0")));
  EXPECT_THAT(FieldViolations(status), SizeIs(1));
  EXPECT_THAT(Annotate(absl::OkStatus(), "x"), IsOk());
}

TEST(GrpcStatusTest, OkBothWays) {
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  EXPECT_THAT(FromGrpcStatus(grpc::Status::OK), IsOk());
}

TEST(GrpcStatusTest, BadRequestSurvivesTheWire) {
  const absl::Status sent = BadRequest(
      {{"training.batch_size", "is -1; the least is 1"}, {"teacher", "'/x' is not a folder"}});
  EXPECT_THAT(sent.message(),
              HasSubstr("training.batch_size: is -1; the least is 1; teacher: '/x'"));
  const absl::Status received = FromGrpcStatus(ToGrpcStatus(sent));
  EXPECT_EQ(received, sent);
  const auto violations = FieldViolations(received);
  ASSERT_THAT(violations, SizeIs(2));
  EXPECT_EQ(violations[1].field, "teacher");
  EXPECT_EQ(violations[1].description, "'/x' is not a folder");
}

TEST(GrpcStatusTest, DetailsAreTheWellKnownMessages) {
  google::rpc::Status wire;
  ASSERT_TRUE(wire.ParseFromString(ToGrpcStatus(BadRequest({{"a", "b"}})).error_details()));
  EXPECT_EQ(wire.code(), 3);
  ASSERT_EQ(wire.details_size(), 1);
  google::rpc::BadRequest details;
  ASSERT_TRUE(wire.details(0).UnpackTo(&details));
  EXPECT_EQ(details.field_violations(0).field(), "a");
}

TEST(GrpcStatusTest, LongMessagesAreShortenedToFitTrailers) {
  const grpc::Status sent = ToGrpcStatus(absl::InternalError(std::string(100'000, 'x')));
  EXPECT_LT(sent.error_message().size(), 2000u);
  EXPECT_THAT(sent.error_message(), HasSubstr("shortened"));
}

TEST(GrpcStatusTest, MessagesAndDetailsAreUtf8AndFitTheTrailersInAnyScript) {
  std::string text = "\xff";
  while (text.size() < 2400) text += "\xe2\x82\xac";
  const grpc::Status sent = ToGrpcStatus(BadRequest({{"spec.teacher.path", text}}));
  EXPECT_TRUE(IsUtf8(sent.error_message()));
  EXPECT_THAT(sent.error_message(), HasSubstr("shortened"));
  google::rpc::Status wire;
  ASSERT_TRUE(wire.ParseFromString(sent.error_details()));
  EXPECT_EQ(wire.message(), sent.error_message());
  ASSERT_THAT(FieldViolations(FromGrpcStatus(sent)), SizeIs(1));
  // Percent-encoded, and base64.
  EXPECT_LT(3 * sent.error_message().size() + 4 * sent.error_details().size() / 3, 8000u);
}

TEST(GrpcStatusTest, UnreadableDetailsAreDropped) {
  const absl::Status status =
      FromGrpcStatus(grpc::Status(grpc::StatusCode::NOT_FOUND, "gone", "\xff\xff garbage"));
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kNotFound, HasSubstr("gone")));
  EXPECT_THAT(FieldViolations(status), SizeIs(0));
}

}  // namespace
}  // namespace d2g::common
