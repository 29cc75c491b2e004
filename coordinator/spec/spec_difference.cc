#include "coordinator/spec/spec_difference.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "google/protobuf/text_format.h"
#include "google/protobuf/util/message_differencer.h"

namespace d2g::coordinator {
namespace {

using google::protobuf::Message;
using google::protobuf::util::MessageDifferencer;
using Path = std::vector<MessageDifferencer::SpecificField>;

// The field's value in the message that holds it, as text.
std::string ValueIn(const Message& message, const google::protobuf::FieldDescriptor* field) {
  if (field->has_presence() && !message.GetReflection()->HasField(message, field)) {
    return "not set";
  }
  if (field->message_type() != nullptr || field->is_repeated()) return "set";
  google::protobuf::TextFormat::Printer printer;
  printer.SetUseUtf8StringEscaping(true);
  std::string text;
  printer.PrintFieldValueToString(message, field, -1, &text);
  return text;
}

// Keeps the first difference; is told of each with the messages that hold the field.
class First final : public MessageDifferencer::Reporter {
 public:
  void ReportAdded(const Message& there, const Message& here, const Path& path) override {
    Note(there, here, path);
  }
  void ReportDeleted(const Message& there, const Message& here, const Path& path) override {
    Note(there, here, path);
  }
  void ReportModified(const Message& there, const Message& here, const Path& path) override {
    Note(there, here, path);
  }
  const std::optional<std::string>& text() const { return text_; }

 private:
  void Note(const Message& there, const Message& here, const Path& path) {
    if (text_.has_value()) return;
    std::string name = "spec";
    for (const auto& step : path) absl::StrAppend(&name, ".", step.field->name());
    text_ = absl::StrCat(name, " is ", ValueIn(there, path.back().field), " there and ",
                         ValueIn(here, path.back().field), " here");
  }

  std::optional<std::string> text_;
};

}  // namespace

std::optional<std::string> SpecDifference(const v1::JobSpec& there, const v1::JobSpec& here) {
  v1::JobSpec stored = there;
  v1::JobSpec asked = here;
  for (v1::JobSpec* spec : {&stored, &asked}) spec->mutable_prompts()->clear_path();
  if (asked.teacher().digest().empty()) {
    asked.mutable_teacher()->set_digest(stored.teacher().digest());
  }
  First first;
  MessageDifferencer differencer;
  differencer.ReportDifferencesTo(&first);
  differencer.Compare(stored, asked);
  return first.text();
}

}  // namespace d2g::coordinator
