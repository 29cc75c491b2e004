#include "worker/simulate/device_span.h"

#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include "services/common/clock.h"

namespace d2g::simulate {

DeviceSpan::DeviceSpan(at::Device device)
    : device_(device), begin_(Mark()), started_(common::RealClock::Get()->SteadyNow()) {}

DeviceSpan::~DeviceSpan() {
  try {
    DropMarks();
  } catch (const c10::Error&) {
    // The device is lost.
  }
}

void DeviceSpan::End() {
  end_ = Mark();
  elapsed_ = common::RealClock::Get()->SteadyNow() - started_;
}

absl::Duration DeviceSpan::Wait() {
  if (end_) {
    const c10::DeviceGuard on_device(device_);
    end_->synchronize();
    elapsed_ = absl::Milliseconds(begin_->elapsedTime(*end_));
    DropMarks();
  }
  return elapsed_;
}

// On their device: without a guard LibTorch goes there and back, and so takes memory of the device
// that a thread without one of its own has, the first.
void DeviceSpan::DropMarks() {
  if (!begin_) return;
  const c10::DeviceGuard on_device(device_);
  begin_.reset();
  end_.reset();
}

std::optional<c10::Event> DeviceSpan::Mark() const {
  if (!device_.is_cuda()) return std::nullopt;
  std::optional<c10::Event> event;
  // With times, which an event leaves out unless asked.
  event.emplace(device_.type(), c10::EventFlag::BACKEND_DEFAULT);
  event->record(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
  return event;
}

}  // namespace d2g::simulate
