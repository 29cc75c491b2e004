#include "worker/simulate/device_span.h"

#include <c10/core/impl/VirtualGuardImpl.h>

#include "services/common/clock.h"

namespace d2g::simulate {

DeviceSpan::DeviceSpan(at::Device device)
    : device_(device), begin_(Mark()), started_(common::RealClock::Get()->SteadyNow()) {}

void DeviceSpan::End() {
  end_ = Mark();
  elapsed_ = common::RealClock::Get()->SteadyNow() - started_;
}

absl::Duration DeviceSpan::Wait() {
  if (end_) {
    end_->synchronize();
    elapsed_ = absl::Milliseconds(begin_->elapsedTime(*end_));
    begin_.reset();
    end_.reset();
  }
  return elapsed_;
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
