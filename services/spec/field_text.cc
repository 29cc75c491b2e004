#include "services/spec/field_text.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/text_format.h"

namespace d2g::spec {
namespace {

using google::protobuf::EnumDescriptor;
using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// Doubles hold whole numbers exactly up to 2^53; larger ones must be written out.
constexpr double kLargestExact = 9007199254740992.0;

template <typename Int>
std::optional<Int> ToInteger(const std::string& text) {
  Int value;
  if (absl::SimpleAtoi(text, &value)) return value;
  double number;
  if (!absl::SimpleAtod(text, &number) || number != std::floor(number)) return std::nullopt;
  if (std::fabs(number) > kLargestExact ||
      number < static_cast<double>(std::numeric_limits<Int>::min()) ||
      number > static_cast<double>(std::numeric_limits<Int>::max())) {
    return std::nullopt;
  }
  return static_cast<Int>(number);
}

absl::Status Expected(std::string_view text, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("'", absl::string_view(text.data(), text.size()),
                                                 "' ",
                                                 absl::string_view(what.data(), what.size())));
}

// The digits of a whole number, or what was expected.
template <typename Int>
absl::Status WholeNumber(const std::string& text, std::string* digits) {
  const std::optional<Int> value = ToInteger<Int>(text);
  if (!value.has_value()) {
    return Expected(
        text, absl::StrCat("is not a whole number from ", std::numeric_limits<Int>::min(), " to ",
                           std::numeric_limits<Int>::max()));
  }
  *digits = absl::StrCat(*value);
  return absl::OkStatus();
}

const EnumValueDescriptor* FindValue(const EnumDescriptor& type, const std::string& text) {
  if (const auto* value = type.FindValueByName(text)) return value;
  int32_t number;
  if (absl::SimpleAtoi(text, &number)) return type.FindValueByNumber(number);
  for (int i = 0; i < type.value_count(); ++i) {
    if (type.value(i)->number() != 0 && ShortName(*type.value(i)) == text) return type.value(i);
  }
  return nullptr;
}

// The field's value in protobuf's own text form, which its parser then takes.
absl::Status Canonical(const std::string& text, const FieldDescriptor& field, std::string* out) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return WholeNumber<int32_t>(text, out);
    case FieldDescriptor::CPPTYPE_INT64:
      return WholeNumber<int64_t>(text, out);
    case FieldDescriptor::CPPTYPE_UINT32:
      return WholeNumber<uint32_t>(text, out);
    case FieldDescriptor::CPPTYPE_UINT64:
      return WholeNumber<uint64_t>(text, out);
    case FieldDescriptor::CPPTYPE_DOUBLE:
    case FieldDescriptor::CPPTYPE_FLOAT: {
      double value;
      if (!absl::SimpleAtod(text, &value) || !std::isfinite(value)) {
        return Expected(text, "is not a finite number");
      }
      *out = absl::StrFormat("%.17g", value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_BOOL:
      if (text != "true" && text != "false") return Expected(text, "is neither true nor false");
      *out = text;
      return absl::OkStatus();
    case FieldDescriptor::CPPTYPE_ENUM: {
      const EnumValueDescriptor* value = FindValue(*field.enum_type(), text);
      if (value == nullptr) {
        return Expected(
            text, absl::StrCat("is none of ", absl::StrJoin(ShortNames(*field.enum_type()), ", ")));
      }
      *out = value->name();
      return absl::OkStatus();
    }
    default:
      return absl::InvalidArgumentError("cannot be set from text");
  }
}

}  // namespace

absl::Status SetFieldFromText(std::string_view text, const FieldDescriptor& field,
                              Message* message) {
  if (field.type() == FieldDescriptor::TYPE_STRING) {
    const auto* reflection = message->GetReflection();
    field.is_repeated() ? reflection->AddString(message, &field, std::string(text))
                        : reflection->SetString(message, &field, std::string(text));
    return absl::OkStatus();
  }
  std::string canonical;
  if (absl::Status status = Canonical(std::string(text), field, &canonical); !status.ok()) {
    return status;
  }
  if (!google::protobuf::TextFormat::Parser().ParseFieldValueFromString(canonical, &field,
                                                                        message)) {
    return Expected(text, absl::StrCat("is no ", field.type_name()));
  }
  return absl::OkStatus();
}

std::string ShortName(const EnumValueDescriptor& value) {
  const EnumDescriptor& type = *value.type();
  std::string common = type.value(0)->name();
  for (int i = 1; i < type.value_count(); ++i) {
    const std::string& name = type.value(i)->name();
    const auto end = std::mismatch(common.begin(), common.end(), name.begin(), name.end()).first;
    common.erase(end, common.end());
  }
  // Whole words only: "A_FP16" and "A_FP32" share "A_", not "A_FP".
  common.erase(common.rfind('_') + 1);
  return absl::AsciiStrToLower(value.name().substr(common.size()));
}

std::vector<std::string> ShortNames(const EnumDescriptor& type) {
  std::vector<std::string> names;
  for (int i = 0; i < type.value_count(); ++i) {
    if (type.value(i)->number() != 0) names.push_back(ShortName(*type.value(i)));
  }
  return names;
}

}  // namespace d2g::spec
