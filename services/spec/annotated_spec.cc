#include "services/spec/annotated_spec.h"

#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "d2g/common/v1/rule.pb.h"
#include "d2g/coordinator/v1/job.pb.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/descriptor.pb.h"
#include "services/spec/field_text.h"
#include "services/spec/spec_descriptors.h"
#include "services/spec/word_lists.h"

namespace d2g::spec {
namespace {

using common::v1::Rule;
using google::protobuf::Descriptor;
using google::protobuf::DescriptorPool;
using google::protobuf::FieldDescriptor;

// Comments are not in the descriptors that are compiled in; these were kept with theirs.
class Comments {
 public:
  Comments() {
    google::protobuf::FileDescriptorSet files;
    files.ParseFromArray(SpecDescriptors().data(), static_cast<int>(SpecDescriptors().size()));
    for (const auto& file : files.file()) pool_.BuildFile(file);
  }

  // The comment above the field, as one line.
  std::string Of(const FieldDescriptor& field) const {
    const FieldDescriptor* found = pool_.FindFieldByName(field.full_name());
    google::protobuf::SourceLocation location;
    if (found == nullptr || !found->GetSourceLocation(&location)) return "";
    return absl::StrJoin(
        absl::StrSplit(location.leading_comments, absl::ByAnyChar(" \n"), absl::SkipEmpty()), " ");
  }

 private:
  DescriptorPool pool_;
};

std::string Number(double value, const FieldDescriptor& field) {
  const bool real = field.cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE;
  return real ? absl::StrCat(value) : absl::StrCat(static_cast<int64_t>(value));
}

// "16 to 65536", "fp16, bf16, fp32", ... ; empty where everything goes.
std::string Allowed(const FieldDescriptor& field, const Rule& rule) {
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_ENUM) {
    return absl::StrJoin(ShortNames(*field.enum_type()), ", ");
  }
  if (const std::vector<std::string> words = WordsOf(rule); !words.empty()) {
    return absl::StrJoin(words, ", ");
  }
  if (rule.path()) return "a path, relative to this file";
  if (rule.digest()) return "\"xxh3-128:\" and 32 hex digits";
  if (rule.has_max_characters()) {
    return absl::StrCat("at most ", rule.max_characters(), " characters");
  }
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_BOOL) return "true or false";
  if (rule.has_above()) {
    return absl::StrCat("above ", Number(rule.above(), field), ", at most ",
                        Number(rule.max(), field));
  }
  if (rule.has_below()) {
    return absl::StrCat("from ", Number(rule.min(), field), ", below ",
                        Number(rule.below(), field));
  }
  if (!rule.has_min()) return "";
  return absl::StrCat(Number(rule.min(), field), " to ", Number(rule.max(), field));
}

// What stands after the comment: limits and default.
std::string Notes(const FieldDescriptor& field, const Rule& rule) {
  std::vector<std::string> notes;
  if (std::string allowed = Allowed(field, rule); !allowed.empty()) {
    notes.push_back(std::move(allowed));
  }
  // A number without a default and with a least value above 0 has to be given.
  const bool needed = rule.required() || (!field.has_presence() && rule.has_min() &&
                                          rule.min() > 0 && !rule.has_default_());
  if (needed) notes.push_back("required");
  if (rule.has_default_()) notes.push_back(absl::StrCat("default ", rule.default_()));
  if (!rule.default_from().empty()) notes.push_back(absl::StrCat("default: ", rule.default_from()));
  return absl::StrJoin(notes, "; ");
}

void AppendComment(const std::string& text, const std::string& indent, int width,
                   std::string* out) {
  std::string line;
  for (absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    const size_t length = indent.size() + 2 + line.size() + 1 + word.size();
    if (!line.empty() && length > static_cast<size_t>(width)) {
      absl::StrAppend(out, indent, "# ", line, "\n");
      line.clear();
    }
    absl::StrAppend(&line, line.empty() ? "" : " ", word);
  }
  if (!line.empty()) absl::StrAppend(out, indent, "# ", line, "\n");
}

// What a field that is not given is, where that is a plain value.
std::string Value(const FieldDescriptor& field, const Rule& rule) {
  if (rule.has_default_()) return absl::StrCat(" ", rule.default_());
  if (field.has_presence() || rule.required() || !rule.default_from().empty()) return "";
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return " false";
    case FieldDescriptor::CPPTYPE_STRING:
    case FieldDescriptor::CPPTYPE_ENUM:
      return "";
    default:
      return rule.has_min() && rule.min() > 0 ? "" : " 0";
  }
}

void AppendMessage(const Descriptor& type, const Comments& comments, const std::string& indent,
                   int width, std::string* out) {
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    const Rule& rule = field.options().GetExtension(common::v1::rule);
    if (i > 0 && indent.empty()) absl::StrAppend(out, "\n");
    AppendComment(comments.Of(field), indent, width, out);
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      absl::StrAppend(out, indent, field.name(), ":\n");
      AppendMessage(*field.message_type(), comments, indent + "  ", width, out);
      continue;
    }
    if (const std::string notes = Notes(field, rule); !notes.empty()) {
      AppendComment(absl::StrCat("(", notes, ")"), indent, width, out);
    }
    absl::StrAppend(out, indent, field.name(), ":", Value(field, rule), "\n");
  }
}

}  // namespace

std::string AnnotatedSpec(int width) {
  std::string out;
  AppendMessage(*coordinator::v1::JobSpec::descriptor(), Comments(), "", width, &out);
  return out;
}

}  // namespace d2g::spec
