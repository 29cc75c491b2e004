// The metric families of a shard (docs/metrics.md).
#pragma once

#include "services/common/metrics.h"

namespace d2g::store {

// References into a Metrics, which must outlive it. Thread-safe.
struct StoreMetrics {
  explicit StoreMetrics(common::Metrics* metrics);

  prometheus::Counter& appended_triples;
  prometheus::Counter& appended_bytes;
  prometheus::Counter& repeated_appends;
  prometheus::Counter& refused_appends;
  prometheus::Histogram& append_seconds;
  prometheus::Histogram& commit_seconds;
  prometheus::Histogram& commit_bytes;
  prometheus::Counter& read_triples;
  prometheus::Counter& read_bytes;
  prometheus::Histogram& read_seconds;
  prometheus::Counter& sealed_triples;
  prometheus::Counter& invalidated_triples;
  prometheus::Counter& checksum_failures;
  prometheus::Gauge& free_bytes;
  prometheus::Gauge& datasets;
  prometheus::Gauge& pool_queue;
  prometheus::Gauge& coordinator_contact;
};

}  // namespace d2g::store
