#include "services/store/store_metrics.h"

namespace d2g::store {

using common::Metrics;

StoreMetrics::StoreMetrics(Metrics* metrics)
    : appended_triples(
          metrics->Counter("d2g_store_appended_triples_total", "Triples made durable by appends.")),
      appended_bytes(
          metrics->Counter("d2g_store_appended_bytes_total", "Bytes of latents made durable.")),
      repeated_appends(metrics->Counter("d2g_store_repeated_appends_total",
                                        "Appends of an index that was there already.")),
      refused_appends(
          metrics->Counter("d2g_store_refused_appends_total",
                           "Append batches refused: full disk, bad triple, old epoch.")),
      append_seconds(metrics->Histogram("d2g_store_append_batch_seconds",
                                        "From a batch's arrival at the store to durable.")),
      commit_seconds(
          metrics->Histogram("d2g_store_commit_seconds", "One synced write: log, fsync, memory.")),
      commit_bytes(metrics->Histogram("d2g_store_commit_bytes", "Bytes of latents in one commit.",
                                      {}, Metrics::SizeBuckets())),
      read_triples(metrics->Counter("d2g_store_read_triples_total", "Triples read.")),
      read_bytes(metrics->Counter("d2g_store_read_bytes_total", "Bytes of latents read.")),
      read_seconds(
          metrics->Histogram("d2g_store_read_seconds", "One triple: read and checksum verified.")),
      sealed_triples(metrics->Counter("d2g_store_sealed_triples_total", "Triples sealed.")),
      invalidated_triples(
          metrics->Counter("d2g_store_invalidated_triples_total", "Triples made absent again.")),
      checksum_failures(metrics->Counter("d2g_store_checksum_failures_total",
                                         "Triples whose bytes did not match, arriving or stored.")),
      free_bytes(metrics->Gauge("d2g_store_free_bytes", "Free space of the volume.")),
      datasets(metrics->Gauge("d2g_store_datasets", "Datasets held.")),
      pool_queue(metrics->Gauge("d2g_store_pool_queue", "Calls waiting for a disk thread.")),
      coordinator_contact(
          metrics->Gauge("d2g_store_coordinator_contact_timestamp_seconds",
                         "Unix time of the last answered heartbeat; 0 before the first.")) {}

}  // namespace d2g::store
