// XXH3 digests as d2g writes them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace d2g::common {

// XXH3-64 of the bytes, seed 0.
uint64_t Xxh3(absl::string_view bytes);

// 32 lower-case hex digits of XXH3-128 of the bytes, seed 0 (high half first, as xxhsum -H2
// prints).
std::string Xxh3Hex128(absl::string_view bytes);

// Called between the pieces of long work, so that its caller sees that it moves; false ends it with
// CANCELLED.
using Tick = std::function<bool()>;

// XXH3-128 of a stream. Not thread-safe.
class Digester {
 public:
  Digester();
  ~Digester();
  Digester(const Digester&) = delete;
  Digester& operator=(const Digester&) = delete;

  void Update(absl::string_view bytes);
  // The content of a file, read in pieces; returns its size. CANCELLED when `tick`, called after
  // each piece, says false.
  absl::StatusOr<int64_t> UpdateFromFile(const std::string& path, const Tick& tick = nullptr);
  // 32 hex digits.
  std::string Hex() const;
  // "xxh3-128:" and Hex().
  std::string Text() const { return "xxh3-128:" + Hex(); }

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace d2g::common
