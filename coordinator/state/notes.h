// What an operator should find in the log.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "services/common/log.h"

namespace d2g::coordinator {

// `message` is a constant.
struct Note {
  common::LogLevel level;
  const char* message;
  std::string job;  // or dataset
  std::string detail;
};

// Collected during a decision; whoever takes decisions writes them afterwards. Thread-compatible.
class Notes {
 public:
  void Info(const char* message, std::string job, std::string detail) {
    notes_.push_back({common::LogLevel::kInfo, message, std::move(job), std::move(detail)});
  }
  void Warn(const char* message, std::string job, std::string detail) {
    notes_.push_back({common::LogLevel::kWarn, message, std::move(job), std::move(detail)});
  }
  void Error(const char* message, std::string job, std::string detail) {
    notes_.push_back({common::LogLevel::kError, message, std::move(job), std::move(detail)});
  }
  // All since the last call.
  std::vector<Note> Take() { return std::exchange(notes_, {}); }

 private:
  std::vector<Note> notes_;
};

}  // namespace d2g::coordinator
