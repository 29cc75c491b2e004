#include "model/tokenizer/tokenizer_files.h"

#include <algorithm>
#include <charconv>
#include <memory>
#include <utility>

#include "model/files/error.h"
#include "model/files/json_config.h"
#include "model/tokenizer/unicode.h"

namespace d2g::model {

using nlohmann::json;

namespace {

constexpr size_t kMaxMerges = 49152 - 256 - 2;

bool IsBlank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// Reads an object of numbers straight into a Vocabulary: a tree of a large vocabulary would take
// longer to build than everything else.
class VocabularyReader : public nlohmann::json_sax<json> {
 public:
  explicit VocabularyReader(std::string path) : path_(std::move(path)) {}
  Vocabulary Take() && { return std::move(vocabulary_); }

  bool start_object(std::size_t) override {
    if (depth_++ > 0) Refuse("an object");
    return true;
  }
  bool end_object() override {
    --depth_;
    return true;
  }
  bool key(string_t& token) override {
    token_.swap(token);
    return true;
  }
  bool number_unsigned(number_unsigned_t id) override {
    if (depth_ == 0 || id > static_cast<number_unsigned_t>(kMaxTokenId)) Refuse(std::to_string(id));
    vocabulary_.Set(token_, static_cast<int64_t>(id));
    return true;
  }
  bool number_integer(number_integer_t id) override { Refuse(std::to_string(id)); }
  bool number_float(number_float_t, const string_t& text) override { Refuse(text); }
  bool null() override { Refuse("null"); }
  bool boolean(bool value) override { Refuse(value ? "true" : "false"); }
  bool string(string_t& text) override { Refuse('"' + text + '"'); }
  bool binary(binary_t&) override { Refuse("binary"); }
  bool start_array(std::size_t) override { Refuse("a list"); }
  bool end_array() override { return true; }
  bool parse_error(std::size_t, const std::string&, const json::exception& error) override {
    Fail(path_, ": not valid JSON: ", Printable(JsonProblem(error)));
  }

 private:
  [[noreturn]] void Refuse(const std::string& value) const {
    if (depth_ == 0) Fail(path_, ": not an object of token ids");
    Fail(path_, ": id of \"", token_, "\" is ", value, ", not an integer from 0 to ", kMaxTokenId);
  }

  std::string path_, token_;
  int depth_ = 0;
  Vocabulary vocabulary_;
};

// Reads the form that every program writes: an object of unsigned numbers. Returns nothing for any
// other text, which is left to VocabularyReader and its messages. A generic parser takes several
// times as long, and most of a short run's start.
std::optional<Vocabulary> ScanVocabulary(std::string_view text) {
  constexpr size_t kBytesPerToken = 16;
  Vocabulary vocabulary;
  vocabulary.Reserve(text.size() / kBytesPerToken);
  size_t i = 0;
  auto next = [&] {  // the next character that is not white space, or 0
    while (i < text.size() && IsBlank(text[i])) ++i;
    return i < text.size() ? text[i++] : '\0';
  };
  if (next() != '{') return std::nullopt;
  char separator = ',';
  while (separator == ',') {
    if (next() != '"') return std::nullopt;
    const size_t begin = i;
    bool is_escaped = false;
    while (i < text.size() && text[i] != '"') {
      is_escaped |= text[i] == '\\';
      i += text[i] == '\\' ? 2 : 1;
    }
    if (i >= text.size()) return std::nullopt;
    const std::string_view token = text.substr(begin, i++ - begin);
    if (next() != ':') return std::nullopt;
    while (i < text.size() && IsBlank(text[i])) ++i;
    int64_t id = 0;
    const auto [end, error] = std::from_chars(text.data() + i, text.data() + text.size(), id);
    if (error != std::errc() || id < 0 || id > kMaxTokenId) return std::nullopt;
    i = static_cast<size_t>(end - text.data());
    if (is_escaped) {
      const json plain = json::parse('"' + std::string(token) + '"', nullptr, false);
      if (!plain.is_string()) return std::nullopt;
      vocabulary.Set(plain.get_ref<const std::string&>(), id);
    } else {
      vocabulary.Set(token, id);
    }
    separator = next();
  }
  if (separator != '}' || next() != '\0' || i < text.size()) return std::nullopt;
  return vocabulary;
}

// The file's text with Python's line ends, without white space around it.
std::string ReadLines(const std::string& path) {
  const std::string text = ReadFileToString(path);
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\r') {
      out += text[i];
    } else if (i + 1 == text.size() || text[i + 1] != '\n') {
      out += '\n';
    }
  }
  while (!out.empty() && IsBlank(out.back())) out.pop_back();
  size_t begin = 0;
  while (begin < out.size() && IsBlank(out[begin])) ++begin;
  return out.substr(begin);
}

std::vector<std::string_view> SplitAtBlanks(std::string_view line) {
  std::vector<std::string_view> parts;
  for (size_t i = 0; i < line.size();) {
    size_t end = i;
    while (end < line.size() && !IsBlank(line[end])) ++end;
    if (end > i) parts.push_back(line.substr(i, end - i));
    i = end + 1;
  }
  return parts;
}

// What a part of tokenizer.json has to be; keys that `expected` lacks are not looked at.
void Require(const json& actual, const json& expected, const std::string& what) {
  for (const auto& [key, value] : expected.items()) {
    const auto it = actual.is_object() ? actual.find(key) : actual.end();
    if (it == actual.end() || *it != value) {
      Fail(what, " is ", actual.dump().substr(0, 200), ", not supported (only CLIPTokenizerFast's ",
           expected.dump(), " is)");
    }
  }
}

const json& Member(const json& object, const char* key, const std::string& path) {
  static const json kNull;
  if (!object.is_object()) Fail(path, ": not a JSON object");
  const auto it = object.find(key);
  return it == object.end() ? kNull : *it;
}

void CheckNormalizer(const json& file, const std::string& path) {
  const json& normalizer = Member(file, "normalizer", path);
  Require(normalizer, json::parse(R"({"type":"Sequence","normalizers":[{"type":"NFC"},
            {"type":"Replace","pattern":{"Regex":"\\s+"},"content":" "},{"type":"Lowercase"}]})"),
          path + ": normalizer");
}

// The expressions that cut text: transformers 4's, and what transformers 5 puts before it.
constexpr char kSplitExpression[] = R"('s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+)";
constexpr char kSplitPrefix5[] = R"(<\|startoftext\|>|<\|endoftext\|>|)";

SplitPattern CheckSplitter(const json& file, const std::string& path) {
  const json& splitter = Member(file, "pre_tokenizer", path);
  const json& steps = Member(splitter, "pretokenizers", path + ": pre_tokenizer");
  const std::string what = path + ": pre_tokenizer";
  Require(splitter, {{"type", "Sequence"}}, what);
  if (!steps.is_array() || steps.size() != 2) {
    Fail(what, " is ", splitter.dump().substr(0, 200), ", not supported");
  }
  const std::string expression5 = std::string(kSplitPrefix5) + kSplitExpression;
  const bool is5 = Member(steps[0], "pattern", what) == json{{"Regex", expression5}};
  Require(steps[0],
          {{"type", "Split"},
           {"pattern", {{"Regex", is5 ? expression5 : kSplitExpression}}},
           {"behavior", "Removed"},
           {"invert", true}},
          what);
  Require(steps[1], {{"type", "ByteLevel"}, {"add_prefix_space", false}}, what);
  const json& use_regex = Member(steps[1], "use_regex", what);
  if (!use_regex.is_null() && use_regex != true) {
    Fail(what, ": use_regex ", use_regex.dump(), " is not supported (only true is)");
  }
  return is5 ? SplitPattern::kFast5 : SplitPattern::kFast;
}

// The id in a post-processor's pair of token and id.
int64_t PairId(const json& processor, const char* key, const std::string& path) {
  const json& pair = Member(processor, key, path + ": post_processor");
  const std::string what = path + ": post_processor: " + key;
  if (!pair.is_array() || pair.size() != 2) Fail(what, " is ", pair.dump(), ", not a token and id");
  return ParseTokenId(pair[1], what);
}

std::optional<std::string> Direction(const json& options, const std::string& what) {
  if (options.is_null()) return std::nullopt;
  const json& direction = Member(options, "direction", what);
  if (direction == "Left") return "left";
  if (direction.is_null() || direction == "Right") return "right";
  Fail(what, ": direction is ", direction.dump(), ", not Left or Right");
}

MergeList ParseMerges(const json& merges, const std::string& what) {
  if (!merges.is_array()) Fail(what, ": merges is not a list");
  auto text = std::make_shared<std::string>();
  std::vector<std::pair<size_t, size_t>> lengths;
  for (const json& merge : merges) {
    std::string first, second;
    if (merge.is_string()) {
      const auto line = merge.get<std::string>();
      if (line.starts_with("#version")) continue;
      const size_t space = line.find(' ');
      if (space != std::string::npos && line.find(' ', space + 1) == std::string::npos) {
        first = line.substr(0, space);
        second = line.substr(space + 1);
      }
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      first = merge[0].get<std::string>();
      second = merge[1].get<std::string>();
    }
    if (first.empty() || second.empty()) {
      Fail(what, ": merge ", lengths.size() + 1, " is ", merge.dump(), ", not two symbols");
    }
    *text += first + second;
    lengths.emplace_back(first.size(), second.size());
  }
  MergeList list{text, {}};
  size_t at = 0;
  for (const auto& [first, second] : lengths) {
    list.pairs.emplace_back(std::string_view(*text).substr(at, first),
                            std::string_view(*text).substr(at + first, second));
    at += first + second;
  }
  return list;
}

}  // namespace

Vocabulary ReadVocabulary(const std::string& path) {
  const std::string text = ReadFileToString(path);
  if (std::optional<Vocabulary> scanned = ScanVocabulary(text)) return *std::move(scanned);
  VocabularyReader reader(path);
  json::sax_parse(text, &reader);
  Vocabulary vocabulary = std::move(reader).Take();
  if (vocabulary.size() == 0) Fail(path, ": not an object of token ids");
  return vocabulary;
}

MergeList ReadMerges(const std::string& path) {
  auto text = std::make_shared<const std::string>(ReadLines(path));
  MergeList merges{text, {}};
  const std::string_view rest = *text;
  size_t begin = 0;
  for (size_t number = 1; begin < rest.size() && number <= kMaxMerges + 1; ++number) {
    const size_t end = std::min(rest.find('\n', begin), rest.size());
    const std::string_view line = rest.substr(begin, end - begin);
    begin = end + 1;
    if (number == 1) continue;
    const std::vector<std::string_view> parts = SplitAtBlanks(line);
    if (parts.empty()) continue;
    if (parts.size() != 2) {
      Fail(path, ": line ", number, " is \"", line, "\", not two symbols");
    }
    merges.pairs.emplace_back(parts[0], parts[1]);
  }
  return merges;
}

int64_t ParseTokenId(const json& value, const std::string& what) {
  if (!value.is_number_integer() || value < 0 || value > kMaxTokenId) {
    Fail(what, ": id is ", value.dump(), ", not an integer from 0 to ", kMaxTokenId);
  }
  return value.get<int64_t>();
}

AddedToken ParseAddedToken(const json& value, const std::string& what) {
  if (!value.is_object() || !value.contains("content") || !value["content"].is_string()) {
    Fail(what, " is ", value.dump(), ", not a token");
  }
  AddedToken token;
  token.content = value["content"].get<std::string>();
  auto flag = [&](const char* key) -> std::optional<bool> {
    const auto it = value.find(key);
    if (it == value.end()) return std::nullopt;
    if (!it->is_boolean()) Fail(what, ": ", key, " is ", it->dump(), ", not true or false");
    return it->get<bool>();
  };
  token.single_word = flag("single_word").value_or(false);
  token.lstrip = flag("lstrip").value_or(false);
  token.rstrip = flag("rstrip").value_or(false);
  token.special = flag("special").value_or(false);
  token.normalized = flag("normalized");
  return token;
}

std::vector<std::pair<int64_t, AddedToken>> ParseAddedTokens(const json& list,
                                                             const std::string& path) {
  if (!list.is_array()) Fail(path, ": added_tokens is not a list");
  std::vector<std::pair<int64_t, AddedToken>> tokens;
  for (const json& item : list) {
    const std::string what = path + ": added_tokens[" + std::to_string(tokens.size()) + "]";
    AddedToken token = ParseAddedToken(item, what);
    tokens.emplace_back(ParseTokenId(Member(item, "id", path), what), std::move(token));
  }
  return tokens;
}

std::vector<std::pair<int64_t, AddedToken>> ReadAddedTokens(const std::string& path) {
  return ParseAddedTokens(Member(ReadJsonFile(path), "added_tokens", path), path);
}

FastTokenizerFile ReadFastTokenizer(const std::string& path) {
  const json file = ReadJsonFile(path);
  CheckNormalizer(file, path);
  FastTokenizerFile out;
  out.split = CheckSplitter(file, path);
  const json& processor = Member(file, "post_processor", path);
  Require(processor, {{"type", "RobertaProcessing"}}, path + ": post_processor");
  out.bos = PairId(processor, "cls", path);
  out.eos = PairId(processor, "sep", path);
  out.padding_side = Direction(Member(file, "padding", path), path + ": padding");
  out.truncation_side = Direction(Member(file, "truncation", path), path + ": truncation");
  for (auto& [id, token] : ParseAddedTokens(Member(file, "added_tokens", path), path)) {
    out.added_tokens.push_back(std::move(token));
  }

  const json& model = Member(file, "model", path);
  const std::string what = path + ": model";
  if (!model.is_object() || model.value("type", json("BPE")) != "BPE") {
    Fail(what, ": type is ", Member(model, "type", what).dump(), ", not supported (only BPE is)");
  }
  const JsonConfig options(model, what);
  options.RequireDefault("dropout", nullptr);
  options.RequireDefault("continuing_subword_prefix", "");
  options.RequireDefault("fuse_unk", false);
  options.RequireDefault("byte_fallback", false);
  options.RequireDefault("ignore_merges", false);
  if (options.String("end_of_word_suffix", "") != "</w>") {
    options.FailAt("end_of_word_suffix", "not supported (only \"</w>\" is)");
  }
  if (options.Has("unk_token")) out.unk_token = options.String("unk_token", "");
  const json& vocabulary = Member(model, "vocab", what);
  if (!vocabulary.is_object()) Fail(what, ": vocab is not an object of token ids");
  for (const auto& [token, id] : vocabulary.items()) {
    out.vocabulary.Set(token, ParseTokenId(id, what + ": \"" + token + "\""));
  }
  out.merges = ParseMerges(Member(model, "merges", what), what);
  return out;
}

}  // namespace d2g::model
