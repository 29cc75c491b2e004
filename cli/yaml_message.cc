#include "cli/yaml_message.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "google/protobuf/descriptor.h"
#include "services/common/status_macros.h"
#include "services/spec/field_text.h"

namespace d2g::cli {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// Documents nested deeper than this are refused (the parser and this walk are recursive).
constexpr int kMaxDepth = 32;

// Where a value stands, for errors.
struct Place {
  std::string file;
  std::string field;  // "train.gan.weight"
  int line = -1;      // from 0; -1: unknown
};

absl::Status Bad(const Place& place, const std::string& what) {
  std::string where = place.file;
  if (place.line >= 0) absl::StrAppend(&where, ":", place.line + 1);
  if (!place.field.empty()) absl::StrAppend(&where, ": ", place.field);
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", what));
}

int EditDistance(const std::string& a, const std::string& b) {
  std::vector<int> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    int diagonal = row[0];
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

// "did you mean 'steps'?" or, when nothing is near, all names.
std::string Suggest(const std::string& name, const Descriptor& type) {
  std::vector<std::string> all;
  std::vector<std::pair<int, std::string>> near;
  const int limit = std::max<int>(2, static_cast<int>(name.size()) / 3);
  for (int i = 0; i < type.field_count(); ++i) {
    all.push_back(type.field(i)->name());
    const int distance = EditDistance(name, all.back());
    if (distance <= limit) near.emplace_back(distance, all.back());
  }
  if (near.empty()) return absl::StrCat("known fields here: ", absl::StrJoin(all, ", "));
  std::sort(near.begin(), near.end());
  if (near.size() > 3) near.resize(3);
  return absl::StrCat("did you mean ",
                      absl::StrJoin(near, " or ",
                                    [](std::string* out, const auto& candidate) {
                                      absl::StrAppend(out, "'", candidate.second, "'");
                                    }),
                      "?");
}

const FieldDescriptor* FindField(const Descriptor& type, const std::string& name) {
  if (const FieldDescriptor* field = type.FindFieldByName(name)) return field;
  for (int i = 0; i < type.field_count(); ++i) {
    if (type.field(i)->json_name() == name) return type.field(i);
  }
  return nullptr;
}

// Sets, or for a repeated field adds, one scalar.
absl::Status SetScalar(const std::string& text, const FieldDescriptor& field, const Place& place,
                       Message* message) {
  const absl::Status status = spec::SetFieldFromText(text, field, message);
  return status.ok() ? status : Bad(place, std::string(status.message()));
}

const char* KindOf(const YAML::Node& node) {
  switch (node.Type()) {
    case YAML::NodeType::Map:
      return "a map";
    case YAML::NodeType::Sequence:
      return "a list";
    case YAML::NodeType::Scalar:
      return "a single value";
    default:
      return "nothing";
  }
}

absl::Status FillMessage(const YAML::Node& node, const Place& place, int depth, Message* message);

// One value of a field: a nested message, or a scalar.
absl::Status FillValue(const YAML::Node& node, const FieldDescriptor& field, const Place& place,
                       int depth, Message* message) {
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
    const Reflection& reflection = *message->GetReflection();
    Message* nested = field.is_repeated() ? reflection.AddMessage(message, &field)
                                          : reflection.MutableMessage(message, &field);
    return FillMessage(node, place, depth + 1, nested);
  }
  if (!node.IsScalar()) {
    return Bad(place, absl::StrCat("expected a single value, found ", KindOf(node)));
  }
  return SetScalar(node.Scalar(), field, place, message);
}

absl::Status FillMessage(const YAML::Node& node, const Place& place, int depth, Message* message) {
  if (depth > kMaxDepth) return Bad(place, absl::StrCat("nested deeper than ", kMaxDepth));
  if (!node.IsMap()) {
    return Bad(place, absl::StrCat("expected fields (a map), found ", KindOf(node)));
  }
  const Descriptor& type = *message->GetDescriptor();
  std::set<const FieldDescriptor*> seen;
  for (const auto& entry : node) {
    Place here = place;
    here.line = entry.first.Mark().line;
    if (!entry.first.IsScalar()) return Bad(here, "a field's name must be a single word");
    const std::string& name = entry.first.Scalar();
    here.field = place.field.empty() ? name : absl::StrCat(place.field, ".", name);
    if (name == "<<") return Bad(here, "merge keys are not supported; write the fields out");
    const FieldDescriptor* field = FindField(type, name);
    if (field == nullptr) {
      return Bad(here, absl::StrCat("unknown field; ", Suggest(name, type)));
    }
    if (!seen.insert(field).second) return Bad(here, "given twice");
    if (entry.second.IsNull()) continue;
    if (field->is_map()) return Bad(here, "cannot be set from a file");
    if (!field->is_repeated()) {
      D2G_RETURN_IF_ERROR(FillValue(entry.second, *field, here, depth, message));
      continue;
    }
    if (!entry.second.IsSequence()) {
      return Bad(here, absl::StrCat("expected a list, found ", KindOf(entry.second)));
    }
    for (const YAML::Node& item : entry.second) {
      D2G_RETURN_IF_ERROR(FillValue(item, *field, here, depth, message));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ParseYamlMessage(std::string_view text, const std::string& file, Message* message) {
  // yaml-cpp throws; nothing of it leaves this function.
  try {
    const YAML::Node root = YAML::Load(std::string(text));
    return FillMessage(root, Place{.file = file}, 0, message);
  } catch (const YAML::Exception& error) {
    return Bad(Place{.file = file, .line = error.mark.line}, error.msg);
  }
}

absl::Status SetMessageField(std::string_view path, std::string_view value,
                             const std::string& origin, Message* message) {
  const Place place{.file = origin, .field = std::string(path)};
  const std::vector<std::string> names = absl::StrSplit(std::string(path), '.');
  for (size_t i = 0; i < names.size(); ++i) {
    const Descriptor& type = *message->GetDescriptor();
    const FieldDescriptor* field = FindField(type, names[i]);
    if (field == nullptr) {
      return Bad(place, absl::StrCat("unknown field; ", Suggest(names[i], type)));
    }
    const bool last = i + 1 == names.size();
    const bool nested = field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
    if (field->is_repeated() || nested == last) {
      return Bad(place, "expected the path of a single value, as in train.steps");
    }
    if (last) return SetScalar(std::string(value), *field, place, message);
    message = message->GetReflection()->MutableMessage(message, field);
  }
  return absl::OkStatus();
}

}  // namespace d2g::cli
