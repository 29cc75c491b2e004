// The durable engine: one RocksDB per shard. Rows live in the default column family, each dataset's
// values in a column family of its own as blobs (integrated BlobDB), so that scans of rows never
// touch blobs and dropping a dataset gives its space back at once.
//
// Durability: every commit is one WriteBatch, in the write-ahead log and fsynced before Write
// returns; RocksDB lets commits that wait at the same time share an fsync. After a crash the log is
// replayed up to a torn tail; damage before the tail refuses to open instead of losing rows
// silently.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/store/engine.h"

namespace d2g::store {

struct RocksDbOptions {
  // Made if missing.
  std::string folder;
  // Triples gathered in memory per dataset before they go to a blob file. Larger is better for
  // large latents; capped at 1/32 of the volume. Price: twice this in memory per dataset being
  // written.
  int64_t write_buffer_bytes = 256 << 20;
  // Blob files end at about this size.
  int64_t blob_file_bytes = 256 << 20;
  // Log kept until its triples are in blob files; bounds the replay at start.
  int64_t max_log_bytes = 512 << 20;
  // Block cache for rows and the blob index.
  int64_t cache_bytes = 64 << 20;
};

// Opens or makes the folder. One clear error naming the folder: not writable (also a read-only
// mount), in use by another process, damaged, not a d2g store.
absl::StatusOr<std::unique_ptr<Engine>> OpenRocksDbEngine(const RocksDbOptions& options);

}  // namespace d2g::store
