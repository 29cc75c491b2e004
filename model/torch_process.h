// What a program that computes with LibTorch does first, and what it used at last.
#pragma once

#include <cstdint>

namespace d2g::model {

// Sets the number of CPU threads for LibTorch (at least 1; 0 leaves its default, all cores) and
// tells the allocator to keep freed memory: networks free and ask for the same large blocks at
// every step, and each would else be given back to the system and come again as zeroed pages, which
// costs a fifth of the time of a small U-Net. Call once, before other threads start.
void SetUpTorchProcess(int threads);

// The most memory that this process has had resident so far, mapped files included; 0 where the
// system does not tell.
int64_t PeakMemoryBytes();

}  // namespace d2g::model
