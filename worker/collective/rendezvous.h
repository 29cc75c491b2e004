// Where the ranks of a generation find each other.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

namespace c10d {
class Store;
}  // namespace c10d

namespace d2g::collective {

// Another rank was lost or did not come in time. The message names the operation, the rank and the
// limit. Wrong arguments are a model::Error instead.
class PeerError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// One process's connection to the key-value store that rank 0 serves. Rank 0 hosts it on a free
// port and tells its address to whoever starts the others; they connect. It must outlive the
// process group made over it; when rank 0's is destroyed or dies, the others' calls fail. The store
// has no authentication: whoever reaches the port can read and write it.
class Rendezvous {
 public:
  // Rank 0: listens on `host` (a name or address of this machine) at a port that the system picks.
  // Throws model::Error naming the host.
  static std::unique_ptr<Rendezvous> Host(const std::string& host,
                                          std::chrono::milliseconds timeout);
  // Others: `address` is host:port, the host of IPv6 in brackets. Throws model::Error when it
  // is malformed, PeerError naming it when it does not answer within `timeout`.
  static std::unique_ptr<Rendezvous> Connect(const std::string& address,
                                             std::chrono::milliseconds timeout);
  ~Rendezvous();

  Rendezvous(const Rendezvous&) = delete;
  Rendezvous& operator=(const Rendezvous&) = delete;

  // host:port that others connect to.
  const std::string& address() const { return address_; }

  // For process groups.
  c10d::Store& store() const { return *store_; }

 private:
  Rendezvous(c10d::Store* store, std::string address);

  // One reference to an intrusively counted object; released in the destructor.
  c10d::Store* store_;
  std::string address_;
};

}  // namespace d2g::collective
