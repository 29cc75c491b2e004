// Which prompt a triple has.
#pragma once

#include <cstdint>

namespace d2g::dataset {

// Position in the prompt list of the prompt of triple `index` under a dataset's `seed`: position
// index mod P of a keyed shuffle of the P prompts, with a new key each cycle, so that P consecutive
// triples use every prompt once. Pure, thread-safe. Throws std::invalid_argument unless index >= 0
// and prompt_count >= 1.
int64_t PromptIndexOf(uint64_t seed, int64_t index, int64_t prompt_count);

}  // namespace d2g::dataset
