// Prometheus metrics of one process.
//
// Build every family at start and keep the references; they live as long as the Metrics, or until
// Remove.
// Thread-safe.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace d2g::common {

class Metrics {
 public:
  // Label names and values: few values, known in advance (no ids of tasks, jobs or processes).
  using Labels = std::map<std::string, std::string>;

  // `component` is the program's name, a label of d2g_build_info.
  explicit Metrics(const std::string& component);
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  // The metric of that name and labels, made at the first call. Names start with "d2g_", end in a
  // base unit, counters in "_total". The same name always comes with the same help (and buckets).
  prometheus::Counter& Counter(const std::string& name, const std::string& help,
                               const Labels& labels = {});
  prometheus::Gauge& Gauge(const std::string& name, const std::string& help,
                           const Labels& labels = {});
  prometheus::Histogram& Histogram(const std::string& name, const std::string& help,
                                   const Labels& labels = {},
                                   const std::vector<double>& buckets = LatencyBuckets());
  // Removes a gauge whose subject is gone, by the name and help that it was made with. References
  // to it are then dangling.
  void Remove(const std::string& name, const std::string& help, prometheus::Gauge* gauge);

  // Seconds, 100 us to 60 s: the one set for every latency, so that fleets add up.
  static const std::vector<double>& LatencyBuckets();
  // Bytes, 4 KiB to 16 MiB in powers of 4.
  static const std::vector<double>& SizeBuckets();

  // The text exposition format, with the process's own figures (CPU, memory, descriptors).
  std::string Expose() const;

 private:
  prometheus::Registry registry_;
};

}  // namespace d2g::common
