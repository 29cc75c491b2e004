#include "services/common/grpc_library.h"

#include <cstdlib>
#include <string>
#include <utility>

#include "google/protobuf/stubs/logging.h"
#include "grpc/grpc.h"
#include "services/common/clock.h"
#include "services/common/log.h"

namespace d2g::common {
namespace {

void LogForProtobuf(google::protobuf::LogLevel level, const char*, int,
                    const std::string& message) {
  static Throttle* const throttle = new Throttle(kLibraryLogInterval);
  int64_t held_back = 0;
  // A fatal one ends the process.
  if (level < google::protobuf::LOGLEVEL_FATAL &&
      !throttle->Pass(RealClock::Get()->SteadyNow(), &held_back)) {
    return;
  }
  Log(level >= google::protobuf::LOGLEVEL_ERROR  ? LogLevel::kError
      : level == google::protobuf::LOGLEVEL_INFO ? LogLevel::kInfo
                                                 : LogLevel::kWarn,
      "protobuf complains", {{"message", message}, {"held_back", held_back}});
}

bool Initialise() {
  google::protobuf::SetLogHandler(&LogForProtobuf);
  // Read once, by grpc_init. An operator's own value stays.
  setenv("GRPC_CLIENT_CHANNEL_BACKUP_POLL_INTERVAL_MS", "200", /*overwrite=*/0);
  grpc_init();
  return true;
}

}  // namespace

bool Throttle::Pass(absl::Duration now, int64_t* held_back) {
  absl::MutexLock lock(&mutex_);
  if (now < next_) {
    ++held_back_;
    return false;
  }
  next_ = now + interval_;
  *held_back = std::exchange(held_back_, 0);
  return true;
}

void KeepGrpcInitialised() {
  static const bool once = Initialise();
  static_cast<void>(once);
}

}  // namespace d2g::common
