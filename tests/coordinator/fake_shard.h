// A store shard as the coordinator sees one: it seals ranges, beats, and reports its list when
// asked.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "coordinator/client/client.h"
#include "gtest/gtest.h"
#include "services/dataset/index_set.h"
#include "tests/coordinator/harness.h"

namespace d2g::coordinator {

// Thread-safe. Beats every 50 ms from the start until destroyed.
class FakeShard {
 public:
  FakeShard(const std::string& coordinator, int32_t number)
      : client_(coordinator, &stop_), number_(number), thread_([this] { Run(); }) {}
  ~FakeShard() {
    stop_.Notify();
    thread_.join();
  }

  // Makes a range durable and answers as SealRange does.
  store::v1::SealRangeResponse Seal(const std::string& dataset,
                                    const common::v1::IndexRange& range) {
    absl::MutexLock lock(&mutex_);
    dataset::IndexSet& sealed = sealed_[dataset];
    sealed.Add(range.begin(), range.end());
    store::v1::SealRangeResponse response;
    *response.mutable_sealed()->mutable_range() = range;
    response.mutable_sealed()->set_digest(Harness::Digest(range.begin(), range.end()));
    response.set_dataset_sealed_count(sealed.size());
    response.set_dataset_digest(Digest(sealed));
    return response;
  }
  int64_t sealed_count(const std::string& dataset) {
    absl::MutexLock lock(&mutex_);
    return sealed_[dataset].size();
  }

 private:
  static uint64_t Digest(const dataset::IndexSet& sealed) {
    uint64_t sum = 0;
    for (const auto& [begin, end] : sealed.ranges()) sum += Harness::Digest(begin, end);
    return sum;
  }
  common::v1::ShardAddress Address() const {
    common::v1::ShardAddress address;
    address.set_shard(number_);
    address.set_address(absl::StrCat("127.0.0.1:", 7000 + number_));
    address.set_store_uuid(absl::StrCat("uuid-", number_));
    return address;
  }
  void Run() {
    do {
      v1::ShardHeartbeatRequest beat;
      *beat.mutable_shard() = Address();
      {
        absl::MutexLock lock(&mutex_);
        for (const auto& [dataset, sealed] : sealed_) {
          auto& summary = *beat.add_datasets();
          summary.set_dataset(dataset);
          summary.set_sealed_count(sealed.size());
          summary.set_digest(Digest(sealed));
        }
      }
      const auto answer = client_.ShardHeartbeat(beat, absl::Now() + absl::Seconds(2));
      if (!answer.ok()) continue;
      for (const std::string& dataset : answer->report_seals()) {
        v1::ReportSealsRequest report;
        *report.mutable_shard() = Address();
        report.set_dataset(dataset);
        {
          absl::MutexLock lock(&mutex_);
          const dataset::IndexSet& sealed = sealed_[dataset];
          dataset::AppendRanges(sealed, 0, INT64_MAX, report.mutable_ranges());
          report.set_sealed_count(sealed.size());
          report.set_digest(Digest(sealed));
        }
        static_cast<void>(client_.ReportSeals(report, absl::Now() + absl::Seconds(2)).ok());
      }
    } while (!stop_.WaitForNotificationWithTimeout(absl::Milliseconds(50)));
  }

  absl::Notification stop_;
  CoordinatorClient client_;
  const int32_t number_;
  absl::Mutex mutex_;
  std::map<std::string, dataset::IndexSet> sealed_;
  std::thread thread_;
};

}  // namespace d2g::coordinator
