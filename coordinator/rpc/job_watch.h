// Watching jobs: the job now, then again at each change.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "coordinator/rpc/service_context.h"
#include "d2g/coordinator/v1/job.pb.h"

namespace d2g::coordinator {

// One stream. Looks at its job when poked and sends it when it differs from what was sent last.
// Ends with OK after a final state, and with UNAVAILABLE when the server stops. Thread-safe.
class JobWatch final : public grpc::ServerWriteReactor<v1::Job>,
                       public std::enable_shared_from_this<JobWatch> {
 public:
  JobWatch(const ServiceContext& services, std::string name)
      : services_(services), name_(std::move(name)) {}

  // Keeps the object alive until the call is over. Call once, before anything else.
  void Begin() { self_ = shared_from_this(); }
  void Poke() ABSL_LOCKS_EXCLUDED(mutex_);
  void Stop() ABSL_LOCKS_EXCLUDED(mutex_);

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  void Send(absl::StatusOr<v1::Job> job) ABSL_LOCKS_EXCLUDED(mutex_);
  // Finishes now, or once the write in flight is done.
  void End(const grpc::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);

  const ServiceContext services_;
  const std::string name_;
  std::shared_ptr<JobWatch> self_;
  absl::Mutex mutex_;
  bool looking_ ABSL_GUARDED_BY(mutex_) = false;  // a look waits for the disk
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;  // Finish was called or will be
  grpc::Status end_ ABSL_GUARDED_BY(mutex_);
  std::string sent_ ABSL_GUARDED_BY(mutex_);
  v1::Job job_;  // what is being written
};

// All streams. Thread-safe.
class WatchHub {
 public:
  // `services` is filled in before the first Watch and must stay valid.
  explicit WatchHub(const ServiceContext* services) : services_(services) {}

  // A new stream; it sends the job at once.
  JobWatch* Watch(const std::string& name) ABSL_LOCKS_EXCLUDED(mutex_);
  // To be called every kTick.
  void Poke() ABSL_LOCKS_EXCLUDED(mutex_);
  // Ends all streams, and new ones at once.
  void Stop() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  std::vector<std::shared_ptr<JobWatch>> Live() ABSL_LOCKS_EXCLUDED(mutex_);

  const ServiceContext* const services_;
  absl::Mutex mutex_;
  std::vector<std::weak_ptr<JobWatch>> watches_ ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace d2g::coordinator
