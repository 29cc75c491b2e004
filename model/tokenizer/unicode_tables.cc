#include "model/tokenizer/unicode_tables.h"

#include <iterator>

namespace d2g::model {

#include "model/tokenizer/unicode_tables.inc"

}  // namespace d2g::model
