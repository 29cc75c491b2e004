// The time from one point of a device's work to another.
#pragma once

#include <optional>

#include <ATen/ATen.h>
#include <c10/core/Event.h>

#include "absl/time/time.h"

namespace d2g::simulate {

// A GPU works behind the calls that gave it its work: there both points are marks in the queue of
// the stream that is current, and waiting for the second one waits for all work before it. Begun
// and ended on one thread; then handed to any other. LibTorch's exceptions pass through.
class DeviceSpan {
 public:
  // Begins here.
  explicit DeviceSpan(at::Device device);
  DeviceSpan(DeviceSpan&&) = default;
  ~DeviceSpan();

  void End();
  // Returns when the device has come to the end: the time that it took from the beginning.
  absl::Duration Wait();

 private:
  std::optional<c10::Event> Mark() const;
  void DropMarks();

  at::Device device_;
  // On a GPU.
  std::optional<c10::Event> begin_, end_;
  // Elsewhere, where a call returns with its work done.
  absl::Duration started_, elapsed_;
};

}  // namespace d2g::simulate
