// What a worker exports about simulating.
#pragma once

#include "services/common/metrics.h"

namespace d2g::simulate {

// References stay valid as long as the Metrics. Thread-safe.
struct SimulateMetrics {
  // `metrics` is not owned.
  explicit SimulateMetrics(common::Metrics* metrics);

  prometheus::Counter& triples;
  prometheus::Counter& skipped_triples;
  prometheus::Counter& repeated_triples;
  prometheus::Counter& batches;
  prometheus::Counter& unet_evaluations;
  prometheus::Counter& appended_bytes;
  prometheus::Counter& sealed_ranges;
  prometheus::Counter& memory_retries;
  prometheus::Gauge& triple_rate;
  prometheus::Gauge& batch_size;
  prometheus::Histogram& step_seconds;
  prometheus::Histogram& append_wait_seconds;
  prometheus::Histogram& seal_seconds;
  prometheus::Histogram& text_encode_seconds;
  prometheus::Histogram& teacher_load_seconds;
};

}  // namespace d2g::simulate
