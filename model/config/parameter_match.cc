#include "model/config/parameter_match.h"

#include <algorithm>
#include <sstream>
#include <utility>

#include "model/files/error.h"

namespace d2g::model {

namespace {

constexpr size_t kNamesShown = 50;
constexpr size_t kNamesShownInNotes = 3;

std::string Listed(std::vector<std::string> names, size_t shown) {
  std::sort(names.begin(), names.end());
  std::ostringstream out;
  for (size_t i = 0; i < names.size() && i < shown; ++i) {
    out << (i ? ", " : "") << Printable(names[i]);
  }
  if (names.size() > shown) out << " and " << names.size() - shown << " more";
  return out.str();
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::ostringstream out;
  out << "[";
  for (size_t i = 0; i < shape.size(); ++i) out << (i ? ", " : "") << shape[i];
  out << "]";
  return out.str();
}

std::string FirstPart(const std::string& name) { return name.substr(0, name.find('.')); }

bool IsEmpty(const StoredTensor& tensor) {
  return std::find(tensor.shape.begin(), tensor.shape.end(), 0) != tensor.shape.end();
}

struct Misfits {
  std::vector<std::string> missing, wrong, unexpected;

  void FailIfAny(const std::string& what) const {
    if (missing.empty() && wrong.empty() && unexpected.empty()) return;
    std::ostringstream message;
    message << what << ": parameters do not fit the config:";
    const char* separator = " ";
    auto add = [&](const char* kind, const std::vector<std::string>& names) {
      if (names.empty()) return;
      message << separator << names.size() << " " << kind << " (" << Listed(names, kNamesShown)
              << ")";
      separator = "; ";
    };
    add("missing", missing);
    add("wrong", wrong);
    add("unexpected", unexpected);
    throw Error(message.str());
  }
};

class Matcher {
 public:
  Matcher(const ShapeMap& wanted, const ParameterRules* rules, const std::string& what)
      : wanted_(wanted), rules_(rules), what_(what) {
    if (rules == nullptr) return;
    modules_ = rules->modules;
    for (const auto& [name, shape] : wanted) modules_.insert(FirstPart(name));
  }

  void Take(const std::string& name, const StoredTensor& tensor) {
    Placement placement{.parameter = name};
    if (rules_ != nullptr && rules_->place) placement = rules_->place(name, tensor);
    if (placement.parameter.empty()) {
      if (!placement.why.empty()) left_out_[placement.why].push_back(name);
      return;
    }
    const auto wanted = wanted_.find(placement.parameter);
    if (wanted == wanted_.end()) return TakeUnexpected(name, placement.parameter, tensor);
    const auto [it, is_new] = match_.stored.emplace(placement.parameter, name);
    if (!is_new) {
      Fail(what_, ": has both ", placement.parameter, " and ",
           Printable(name == placement.parameter ? it->second : name));
    }
    std::vector<int64_t> shape = tensor.shape;
    if (placement.is_convolution) shape.resize(2);
    if (shape != wanted->second) {
      misfits_.wrong.push_back(placement.parameter + " is " + ShapeText(shape) + ", not " +
                               ShapeText(wanted->second));
    } else if (!tensor.is_floating) {
      misfits_.wrong.push_back(placement.parameter + " is " + tensor.dtype +
                               ", not floating point");
    }
  }

  ParameterMatch Finish() {
    for (const auto& [name, shape] : wanted_) {
      if (!match_.stored.contains(name)) misfits_.missing.push_back(name);
    }
    misfits_.FailIfAny(what_);
    for (const auto& [why, names] : left_out_) {
      match_.notes.push_back(std::to_string(names.size()) +
                             (names.size() == 1 ? " tensor " : " tensors ") + why + " (" +
                             Listed(names, kNamesShownInNotes) + ")");
    }
    return std::move(match_);
  }

 private:
  void TakeUnexpected(const std::string& name, const std::string& parameter,
                      const StoredTensor& tensor) {
    if (rules_ != nullptr && IsEmpty(tensor)) {
      left_out_["without elements"].push_back(name);
    } else if (rules_ != nullptr && !modules_.contains(FirstPart(parameter))) {
      left_out_["outside the network's modules"].push_back(name);
    } else {
      misfits_.unexpected.push_back(parameter);
    }
  }

  const ShapeMap& wanted_;
  const ParameterRules* const rules_;
  const std::string& what_;
  std::set<std::string> modules_;
  ParameterMatch match_;
  Misfits misfits_;
  std::map<std::string, std::vector<std::string>> left_out_;
};

ParameterMatch Match(const StoredTensors& stored, const ShapeMap& wanted,
                     const ParameterRules* rules, const std::string& what) {
  Matcher matcher(wanted, rules, what);
  for (const auto& [name, tensor] : stored) matcher.Take(name, tensor);
  return matcher.Finish();
}

}  // namespace

ParameterMatch MatchParameters(const StoredTensors& stored, const ShapeMap& wanted,
                               const ParameterRules& rules, const std::string& what) {
  return Match(stored, wanted, &rules, what);
}

void RequireSameParameters(const StoredTensors& stored, const ShapeMap& wanted,
                           const std::string& what) {
  Match(stored, wanted, nullptr, what);
}

}  // namespace d2g::model
