#include "services/common/metrics.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "prometheus/text_serializer.h"
#include "services/common/version.h"

namespace d2g::common {
namespace {

prometheus::MetricFamily Single(const std::string& name, const std::string& help,
                                prometheus::MetricType type, double value) {
  prometheus::MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = type;
  prometheus::ClientMetric metric;
  if (type == prometheus::MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  family.metric.push_back(metric);
  return family;
}

double ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  double pages = 0;
  double resident = 0;
  statm >> pages >> resident;
  return resident * static_cast<double>(sysconf(_SC_PAGESIZE));
}

double OpenDescriptors() {
  DIR* const dir = opendir("/proc/self/fd");
  if (dir == nullptr) return 0;
  int count = 0;
  while (readdir(dir) != nullptr) ++count;
  closedir(dir);
  return count - 3;  // ".", ".." and the folder itself.
}

double CpuSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

std::vector<prometheus::MetricFamily> ProcessFamilies() {
  static const double start_seconds = absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch());
  using prometheus::MetricType;
  return {
      Single("process_cpu_seconds_total", "User and system CPU time.", MetricType::Counter,
             CpuSeconds()),
      Single("process_resident_memory_bytes", "Resident memory.", MetricType::Gauge,
             ResidentBytes()),
      Single("process_open_fds", "Open file descriptors.", MetricType::Gauge, OpenDescriptors()),
      Single("process_start_time_seconds", "Start of the process, Unix time.", MetricType::Gauge,
             start_seconds)};
}

}  // namespace

Metrics::Metrics(const std::string& component) {
  Gauge("d2g_build_info", "Always 1; the labels say which build runs.",
        {{"component", component}, {"version", Version()}})
      .Set(1);
  ProcessFamilies();  // Fixes the start time.
}

Metrics::~Metrics() = default;

prometheus::Counter& Metrics::Counter(const std::string& name, const std::string& help,
                                      const Labels& labels) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry_).Add(labels);
}

prometheus::Gauge& Metrics::Gauge(const std::string& name, const std::string& help,
                                  const Labels& labels) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry_).Add(labels);
}

void Metrics::Remove(const std::string& name, const std::string& help, prometheus::Gauge* gauge) {
  prometheus::BuildGauge().Name(name).Help(help).Register(registry_).Remove(gauge);
}

prometheus::Histogram& Metrics::Histogram(const std::string& name, const std::string& help,
                                          const Labels& labels,
                                          const std::vector<double>& buckets) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry_).Add(labels,
                                                                                    buckets);
}

const std::vector<double>& Metrics::LatencyBuckets() {
  static const auto* const buckets =
      new std::vector<double>{1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2,
                              0.1,  0.25,   0.5,  1,    2.5,    5,    10,   30,     60};
  return *buckets;
}

const std::vector<double>& Metrics::SizeBuckets() {
  static const auto* const buckets =
      new std::vector<double>{4096, 16384, 65536, 262144, 1048576, 4194304, 16777216};
  return *buckets;
}

std::string Metrics::Expose() const {
  std::vector<prometheus::MetricFamily> families = registry_.Collect();
  for (auto& family : ProcessFamilies()) families.push_back(std::move(family));
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, families);
  return out.str();
}

}  // namespace d2g::common
