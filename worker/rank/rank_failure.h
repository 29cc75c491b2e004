// What kind of failure ends a rank, as its exit code tells the agent.
#pragma once

#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"
#include "services/common/retry.h"
#include "worker/collective/rendezvous.h"
#include "worker/common/torch_status.h"
#include "worker/gang/rank_channel.h"

namespace d2g::rank {

inline constexpr char kPeerLostPayload[] = "d2g/peer-lost";
inline constexpr char kNotFinitePayload[] = "d2g/not-finite";

// UNAVAILABLE, marked: another rank was lost or did not come.
inline absl::Status PeerLostError(absl::string_view message) {
  absl::Status status = absl::UnavailableError(message);
  status.SetPayload(kPeerLostPayload, absl::Cord());
  return status;
}

// INTERNAL, marked: gradients were not finite in too many steps in a row.
inline absl::Status NotFiniteError(absl::string_view message) {
  absl::Status status = absl::InternalError(message);
  status.SetPayload(kNotFinitePayload, absl::Cord());
  return status;
}

// Runs f(), which returns absl::Status or a StatusOr, and turns what it throws into that: PeerError
// into PeerLostError, the rest as CatchTorch does.
template <typename F>
std::invoke_result_t<F> CatchPeersAndTorch(F&& f) {
  return CatchTorch([&f]() -> std::invoke_result_t<F> {
    try {
      return std::forward<F>(f)();
    } catch (const collective::PeerError& error) {
      return PeerLostError(error.what());
    }
  });
}

// Narrower than common::ExitCodeOf: exit code 3 fails the whole job, so it is only for what no rank
// on any node can do. A folder that this node does not see, or a commit that came too late, ends
// with another code.
inline int RankExitCode(const absl::Status& failure) {
  if (failure.GetPayload(kPeerLostPayload).has_value()) return gang::kExitPeerLost;
  if (failure.GetPayload(kNotFinitePayload).has_value()) return gang::kExitNotFinite;
  if (absl::IsInvalidArgument(failure)) return common::kExitBadInput;
  return common::IsRetryable(failure) ? common::kExitCannotReach : common::kExitFailure;
}

}  // namespace d2g::rank
