#include "services/spec/word_lists.h"

#include <cstdlib>

#include "model/solver/solver_names.h"

namespace d2g::spec {
namespace {

// Names that belong to code which no service needs to know otherwise.
struct WordList {
  const char* name;
  std::vector<std::string> (*words)();
};
constexpr WordList kWordLists[] = {
    {"solvers", model::SolverNames},
    {"timestep_spacings", model::TimestepSpacings},
};

}  // namespace

std::vector<std::string> WordsOf(const common::v1::Rule& rule) {
  if (rule.words().empty()) return {rule.one_of().begin(), rule.one_of().end()};
  for (const WordList& list : kWordLists) {
    if (rule.words() == list.name) return list.words();
  }
  std::abort();
}

}  // namespace d2g::spec
