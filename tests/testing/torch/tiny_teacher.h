// A complete text-to-image folder with random weights, small enough to train in tests.
#pragma once

#include <cstdint>
#include <string>

#include "tests/testing/tiny_folder.h"

namespace d2g::testing {

// Writes that of WriteTinyFolder with random weights: the same bytes for the same seed.
void WriteTinyTeacher(const std::string& folder, uint64_t seed = 1);

}  // namespace d2g::testing
