// One stream of triples into one range of a shard.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "d2g/store/v1/triple_service.pb.h"

namespace d2g::store {

// Made by TripleClient::Append. A lost connection or a restarted shard is healed inside Write and
// Finish: the session opens the stream again, learns from the new presence bitmap what is durable
// and sends the rest. Write and Finish are called one at a time, the other methods at any time, all
// from any thread. Destruction without Finish abandons what is not yet acknowledged.
class AppendSession {
 public:
  // What the shard acknowledged.
  struct Totals {
    // Triples that this session made durable.
    int64_t written = 0;
    // Triples that were there already (first write wins).
    int64_t repeated = 0;
  };

  virtual ~AppendSession() = default;

  // True when the index of the range was durable when the session was opened: skip it.
  virtual bool WasPresent(int64_t index) const = 0;
  // How many of the range were.
  virtual int64_t present_count() const = 0;

  // Sends triples of the range, in messages of at most 64 triples or 4 MiB; returns once they are
  // on their way, waiting while more than kMaxOutstandingBytes are unacknowledged. Retries until
  // `deadline` while the shard is unreachable. After an error only destruction is useful.
  virtual absl::Status Write(std::vector<v1::Triple> triples, absl::Time deadline) = 0;

  // Waits until everything written is durable.
  virtual absl::StatusOr<Totals> Finish(absl::Time deadline) = 0;

  // Acknowledged so far.
  virtual Totals totals() const = 0;

  // Makes Write and Finish fail soon with CANCELLED.
  virtual void Cancel() = 0;
};

}  // namespace d2g::store
