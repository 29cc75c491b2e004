#include "services/spec/field_rules.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "d2g/common/v1/rule.pb.h"
#include "services/common/path_policy.h"
#include "services/common/status_macros.h"
#include "services/common/utf8.h"
#include "services/spec/field_text.h"
#include "services/spec/word_lists.h"

namespace d2g::spec {
namespace {

using common::v1::Rule;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// Longer values are cut where an error shows them.
constexpr size_t kMaxShownBytes = 80;

bool IsNested(const FieldDescriptor& field) {
  return field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && !field.is_repeated() &&
         absl::StartsWith(field.message_type()->full_name(), "d2g.");
}

const Rule& RuleOf(const FieldDescriptor& field) {
  return field.options().GetExtension(common::v1::rule);
}

// Whether the field is set; "" and the enum's 0 are not.
bool IsGiven(const Message& message, const FieldDescriptor& field) {
  return message.GetReflection()->HasField(message, &field);
}

// What is wrong with a number; empty when nothing is. Limits of whole numbers are exact in a
// double.
template <typename T>
std::string NumberFault(T value, const Rule& rule) {
  const auto number = static_cast<double>(value);
  const auto shown = [](double limit) { return absl::StrCat(static_cast<T>(limit)); };
  const bool bad = !std::isfinite(number) || (rule.has_min() && number < rule.min()) ||
                   (rule.has_max() && number > rule.max()) ||
                   (rule.has_above() && number <= rule.above()) ||
                   (rule.has_below() && number >= rule.below());
  if (!bad) return "";
  if (rule.has_below()) {
    return absl::StrCat(value, " is not below ", shown(rule.below()), " and at least ",
                        shown(rule.min()));
  }
  if (rule.has_above()) {
    return absl::StrCat(value, " is not above ", shown(rule.above()), " and at most ",
                        shown(rule.max()));
  }
  return absl::StrCat(value, " is not from ", shown(rule.min()), " to ", shown(rule.max()));
}

int Characters(absl::string_view utf8) {
  return static_cast<int>(
      std::count_if(utf8.begin(), utf8.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

// `value` as an error shows it.
std::string Shown(const std::string& value) { return common::ValidUtf8(value, kMaxShownBytes); }

// Names are shown by many programs: they hold nothing that a terminal would obey (utf8.h).
std::string ControlFault(const std::string& value) {
  if (!common::HoldsControl(value)) return "";
  return absl::StrCat("\"", common::WithoutControls(Shown(value)), "\" holds a control character");
}

std::string PathFault(const std::string& path) {
  if (path.front() != '/') {
    return absl::StrCat("\"", Shown(path), "\" is not an absolute path");
  }
  if (path.size() > kMaxPathBytes) {
    return absl::StrCat("has ", path.size(), " bytes; at most ", kMaxPathBytes, " are allowed");
  }
  return ControlFault(path);
}

std::string DigestFault(const std::string& value) {
  absl::string_view hex = value;
  bool good = absl::ConsumePrefix(&hex, "xxh3-128:") && hex.size() == 32;
  for (const char c : hex) good = good && (absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f'));
  if (good) return "";
  return absl::StrCat("\"", Shown(value), "\" is not \"xxh3-128:\" and 32 lower-case hex digits");
}

// What is wrong with a string; empty when nothing is.
std::string StringFault(const std::string& value, const Rule& rule) {
  if (value.empty()) return rule.required() ? "is required" : "";
  if (rule.path()) return PathFault(value);
  if (rule.digest()) return DigestFault(value);
  if (const std::vector<std::string> words = WordsOf(rule); !words.empty()) {
    if (std::find(words.begin(), words.end(), value) != words.end()) return "";
    return absl::StrCat("\"", Shown(value), "\" is not one of ", absl::StrJoin(words, ", "));
  }
  if (rule.has_max_characters()) {
    if (Characters(value) > rule.max_characters()) {
      return absl::StrCat("has ", Characters(value), " characters; at most ",
                          rule.max_characters());
    }
    return ControlFault(value);
  }
  return "";
}

std::string EnumFault(int number, const FieldDescriptor& field) {
  if (field.enum_type()->FindValueByNumber(number) != nullptr) return "";
  return absl::StrCat(number, " is not one of ",
                      absl::StrJoin(ShortNames(*field.enum_type()), ", "));
}

std::string Fault(const Message& message, const FieldDescriptor& field, const Rule& rule) {
  const auto& reflection = *message.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return NumberFault(reflection.GetInt32(message, &field), rule);
    case FieldDescriptor::CPPTYPE_INT64:
      return NumberFault(reflection.GetInt64(message, &field), rule);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return NumberFault(reflection.GetDouble(message, &field), rule);
    case FieldDescriptor::CPPTYPE_STRING:
      return StringFault(reflection.GetString(message, &field), rule);
    case FieldDescriptor::CPPTYPE_ENUM:
      return EnumFault(reflection.GetEnumValue(message, &field), field);
    default:
      return "";
  }
}

absl::Status TransformPaths(const std::string& prefix, Message* message,
                            const PathTransform& transform) {
  const auto& reflection = *message->GetReflection();
  const auto& type = *message->GetDescriptor();
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (field.is_repeated() || !reflection.HasField(*message, &field)) continue;
    const std::string name = absl::StrCat(prefix, field.name());
    if (IsNested(field)) {
      D2G_RETURN_IF_ERROR(
          TransformPaths(name + ".", reflection.MutableMessage(message, &field), transform));
    } else if (RuleOf(field).path()) {
      D2G_ASSIGN_OR_RETURN(std::string path,
                           transform(name, reflection.GetString(*message, &field)));
      reflection.SetString(message, &field, std::move(path));
    }
  }
  return absl::OkStatus();
}

}  // namespace

void FieldChecker::ApplyRules(Message* message) { Walk("", message); }

void FieldChecker::Walk(const std::string& prefix, Message* message) {
  const auto& type = *message->GetDescriptor();
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    const std::string name = absl::StrCat(prefix, field.name());
    if (IsNested(field)) {
      Walk(name + ".", message->GetReflection()->MutableMessage(message, &field));
    } else if (!field.is_repeated()) {
      CheckField(name, field, message);
    }
  }
}

void FieldChecker::CheckField(const std::string& name, const FieldDescriptor& field,
                              Message* message) {
  const Rule& rule = RuleOf(field);
  if (!IsGiven(*message, field)) {
    if (rule.has_default_()) {
      if (const auto set = SetFieldFromText(rule.default_(), field, message); !set.ok()) {
        Fail(name, absl::StrCat("has a default that cannot be: ", set.message()));
      }
      return;
    }
    // Decided elsewhere, or nothing was said.
    if (field.has_presence()) return;
  }
  if (std::string fault = Fault(*message, field, rule); !fault.empty()) {
    Fail(name, std::move(fault));
    return;
  }
  if (rule.path()) {
    const auto& reflection = *message->GetReflection();
    if (const std::string path = reflection.GetString(*message, &field); !path.empty()) {
      reflection.SetString(message, &field, common::NormalPath(path));
    }
  }
}

void FieldChecker::Fail(std::string_view field, std::string description) {
  violations_.push_back({absl::StrCat(root_, ".", absl::string_view(field.data(), field.size())),
                         std::move(description)});
}

void FieldChecker::InRange(std::string_view field, int64_t value, int64_t least, int64_t most) {
  if (value < least || value > most) {
    Fail(field, absl::StrCat(value, " is not from ", least, " to ", most));
  }
}

bool FieldChecker::Required(std::string_view field, std::string_view value) {
  if (value.empty()) Fail(field, "is required");
  return !value.empty();
}

bool FieldChecker::IsGood(std::string_view field) const {
  const std::string name = absl::StrCat(root_, ".", absl::string_view(field.data(), field.size()));
  return std::none_of(violations_.begin(), violations_.end(),
                      [&](const auto& violation) { return violation.field == name; });
}

int64_t Largest(const google::protobuf::Descriptor& type, const std::string& field) {
  return static_cast<int64_t>(RuleOf(*type.FindFieldByName(field)).max());
}

absl::Status TransformPaths(Message* message, const PathTransform& transform) {
  return TransformPaths("", message, transform);
}

}  // namespace d2g::spec
