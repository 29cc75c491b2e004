#include "worker/simulate/simulate_metrics.h"

namespace d2g::simulate {

SimulateMetrics::SimulateMetrics(common::Metrics* metrics)
    : triples(metrics->Counter("d2g_simulate_triples_total", "Triples solved here")),
      skipped_triples(metrics->Counter("d2g_simulate_skipped_triples_total",
                                       "Triples of leased ranges that were durable already")),
      repeated_triples(metrics->Counter("d2g_simulate_repeated_triples_total",
                                        "Triples appended here that another worker had written")),
      batches(metrics->Counter("d2g_simulate_batches_total", "Batches solved here")),
      unet_evaluations(metrics->Counter("d2g_simulate_unet_evaluations_total",
                                        "U-Net evaluations, one per sample and branch")),
      appended_bytes(metrics->Counter("d2g_simulate_appended_bytes_total",
                                      "Bytes of latents handed to the store")),
      sealed_ranges(metrics->Counter("d2g_simulate_sealed_ranges_total", "Ranges sealed")),
      memory_retries(
          metrics->Counter("d2g_simulate_memory_retries_total",
                           "Batches that did not fit into memory and were made smaller")),
      triple_rate(metrics->Gauge("d2g_simulate_triples_per_second",
                                 "Triples a second over the last batch")),
      batch_size(metrics->Gauge("d2g_simulate_batch_size", "Triples solved together")),
      step_seconds(metrics->Histogram(
          "d2g_simulate_step_seconds",
          "One solver step of a whole batch; on a GPU, giving it to the device")),
      append_wait_seconds(metrics->Histogram("d2g_simulate_append_wait_seconds",
                                             "Wait for the store to take a batch")),
      seal_seconds(metrics->Histogram("d2g_simulate_seal_seconds",
                                      "Last acknowledgements and the seal of a range")),
      text_encode_seconds(metrics->Histogram(
          "d2g_simulate_text_encode_seconds",
          "Encoding the prompts of a batch; on a GPU with the end of the batch before")),
      teacher_load_seconds(metrics->Histogram("d2g_simulate_teacher_load_seconds",
                                              "Checking and loading the teacher's folder")) {}

}  // namespace d2g::simulate
