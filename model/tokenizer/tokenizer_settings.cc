#include "model/tokenizer/tokenizer_settings.h"

#include <algorithm>
#include <map>
#include <set>

#include "model/files/error.h"
#include "model/files/input_file.h"
#include "model/files/json_config.h"
#include "model/tokenizer/tokenizer_files.h"

namespace d2g::model {

using nlohmann::json;

namespace {

// The original model's length, which stands in for one that is not set or "infinite".
constexpr int64_t kDefaultLength = 77;
// transformers takes more than this for infinite.
constexpr double kInfiniteLength = 1e20;
constexpr int64_t kMaxLength = 1 << 20;

// Roles of special tokens whose value is one token.
constexpr const char* kRoles[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                  "pad_token", "cls_token", "mask_token"};
constexpr const char* kAdditional = "additional_special_tokens";
constexpr const char* kExtra = "extra_special_tokens";

// An object of special_tokens_map.json is a token at once; one of tokenizer_config.json has to say
// so in "__type", and becomes one only after the other files are read.
constexpr const char* kType = "__type";
constexpr const char* kTypeToken = "AddedToken";
constexpr const char* kMark = "__from_special_tokens_map";

json Marked(json token) {
  token["special"] = true;
  token[kType] = kTypeToken;
  token[kMark] = true;
  return token;
}

// The content of a string or of an object that is a token at once.
std::string NameOf(const json& value) {
  if (value.is_string()) return value.get<std::string>();
  return value.is_object() && value.contains(kMark) ? ParseAddedToken(value, "").content : "";
}

SpecialToken ParseSpecial(const json& value, const std::string& what) {
  if (value.is_string()) return {{value.get<std::string>()}, true};
  return {ParseAddedToken(value, what), false};
}

class Reader {
 public:
  Reader(const std::string& folder, TokenizerFlavour flavour)
      : folder_(folder), flavour_(flavour) {}

  TokenizerSettings Read() {
    const std::string config_path = folder_ + "/tokenizer_config.json";
    if (FileExists(config_path)) config_ = ReadJsonFile(config_path);
    source_ = config_path;
    const JsonConfig options(config_, config_path);
    if (is5()) RenameAdditional();
    if (options.Has("added_tokens_decoder")) {
      ReadDecoder(options);
    } else {
      ReadLegacyFiles();
    }
    ReadRoles();
    if (is5()) {
      ReadExtra5();
    } else {
      ReadExtra();
    }
    // The older files override any option.
    ReadOptions(JsonConfig(config_, source_));
    return std::move(settings_);
  }

 private:
  bool is5() const { return flavour_ == TokenizerFlavour::kFast5; }

  static bool IsRole(const std::string& name) {
    return std::find(std::begin(kRoles), std::end(kRoles), name) != std::end(kRoles);
  }

  void ReadDecoder(const JsonConfig& options) {
    const json& decoder = options.Get("added_tokens_decoder");
    if (!decoder.is_object()) options.FailAt("added_tokens_decoder", "must be an object");
    for (const auto& [id, value] : decoder.items()) {
      const std::string what = source_ + ": added_tokens_decoder[\"" + id + "\"]";
      if (id.empty() || id.size() > 10 || id.find_first_not_of("0123456789") != std::string::npos) {
        Fail(what, ": the id is not a number");
      }
      const AddedToken token = ParseAddedToken(value, what);
      if (!by_name_.emplace(token.content, token).second) {
        Fail(what, ": \"", token.content, "\" has another id, too");
      }
      AddToken(ParseTokenId(json(std::stoll(id)), what), token);
    }
  }

  void ReadLegacyFiles() {
    // transformers files the tokens of added_tokens.json under this name by mistake.
    std::string mistaken = "None";
    const std::string map_path = folder_ + "/special_tokens_map.json";
    if (FileExists(map_path)) {
      source_ += " and " + map_path;
      const json map = ReadJsonFile(map_path);
      if (!map.is_object()) Fail(map_path, ": not a JSON object");
      for (const auto& [key, value] : map.items()) {
        if (value.is_object() && !(is5() && key == kExtra)) {
          config_[key] = Marked(value);
        } else if (key == (is5() ? kExtra : kAdditional) && value.is_array()) {
          mistaken = AppendTokens(key, value, map_path).value_or(mistaken);
        } else {
          config_[key] = value;
        }
      }
    }
    const std::string added_path = folder_ + "/added_tokens.json";
    if (FileExists(added_path)) ReadAddedTokensFile(added_path, mistaken);
    const std::string fast_path = folder_ + "/tokenizer.json";
    if (FileExists(fast_path)) {
      for (auto& [id, token] : ReadAddedTokens(fast_path)) {
        by_name_[token.content] = token;
        AddToken(id, std::move(token));
      }
    }
  }

  // Adds the tokens of special_tokens_map.json to the list of that name, each once; returns the
  // last one's content.
  std::optional<std::string> AppendTokens(const std::string& key, const json& tokens,
                                          const std::string& map_path) {
    std::optional<std::string> last;
    json& list = config_[key];
    if (!list.is_array()) list = json::array();
    for (json token : tokens) {
      if (token.is_object()) token = Marked(token);
      last = ParseSpecial(token, map_path + ": " + key).token.content;
      if (std::find(list.begin(), list.end(), token) == list.end()) list.push_back(token);
    }
    return last;
  }

  void ReadAddedTokensFile(const std::string& path, const std::string& mistaken) {
    std::set<std::string> specials;
    for (const char* role : kRoles) {
      if (config_.contains(role)) specials.insert(NameOf(config_[role]));
    }
    const char* const list = is5() ? kExtra : kAdditional;
    if (config_.contains(list) && config_[list].is_array()) {
      for (const json& token : config_[list]) specials.insert(NameOf(token));
    }
    const json tokens = ReadJsonFile(path);
    if (!tokens.is_object()) Fail(path, ": not an object of token ids");
    for (const auto& [content, id] : tokens.items()) {
      AddedToken token{content};
      token.special = specials.contains(content);
      token.normalized = !token.special;
      by_name_[is5() ? content : mistaken] = token;
      AddToken(ParseTokenId(id, path + ": \"" + content + "\""), token);
    }
  }

  // A later token takes the place of an earlier one of the same id.
  void AddToken(int64_t id, AddedToken token) {
    for (auto& [known, place] : settings_.added) {
      if (known == id) {
        place = std::move(token);
        return;
      }
    }
    settings_.added.emplace_back(id, std::move(token));
  }

  SpecialToken ParseRole(const json& value, const std::string& role) const {
    const std::string what = source_ + ": option \"" + role + "\"";
    if (value.is_object() && value.value(kType, json()) != kTypeToken) {
      Fail(what, " is ", value.dump(), ": an object must have \"__type\": \"AddedToken\"");
    }
    const SpecialToken special = ParseSpecial(value, what);
    const auto it = by_name_.find(special.token.content);
    return it == by_name_.end() ? special : SpecialToken{it->second, false};
  }

  std::optional<SpecialToken> Role(const char* role, const char* fallback) const {
    const auto it = config_.find(role);
    if (it != config_.end() && it->is_null()) return std::nullopt;
    if (it != config_.end()) return ParseRole(*it, role);
    return fallback == nullptr ? std::nullopt : std::optional(SpecialToken{{fallback}, true});
  }

  SpecialToken RequiredRole(const char* role, const char* fallback) const {
    const std::optional<SpecialToken> token = Role(role, fallback);
    if (!token) Fail(source_, ": option \"", role, "\" is null: must be a token");
    return *token;
  }

  std::vector<SpecialToken> List(const char* key) const {
    std::vector<SpecialToken> tokens;
    const auto it = config_.find(key);
    if (it == config_.end() || it->is_null()) return tokens;
    if (!it->is_array()) Fail(source_, ": option \"", key, "\" must be a list of tokens");
    for (const json& value : *it) {
      const std::string what = source_ + ": option \"" + key + "\"";
      if (value.is_object() && value.value(kType, json()) != kTypeToken) {
        Fail(what, ": ", value.dump(), ": an object must have \"__type\": \"AddedToken\"");
      }
      tokens.push_back(ParseSpecial(value, what));
    }
    return tokens;
  }

  void ReadRoles() {
    settings_.bos = RequiredRole("bos_token", "<|startoftext|>");
    settings_.eos = RequiredRole("eos_token", "<|endoftext|>");
    settings_.pad = RequiredRole("pad_token", "<|endoftext|>");
    settings_.unk = Role("unk_token", "<|endoftext|>");
    settings_.sep = Role("sep_token", nullptr);
    settings_.cls = Role("cls_token", nullptr);
    settings_.mask = Role("mask_token", nullptr);
  }

  void ReadExtra() {
    settings_.additional = List(kAdditional);
    const auto extra = config_.find(kExtra);
    if (extra != config_.end() && !extra->is_null()) ReadNamed(*extra);
  }

  // An object of tokens, whose names are the keys.
  void ReadNamed(const json& tokens) {
    const std::string option = source_ + ": option \"" + kExtra + "\"";
    if (!tokens.is_object()) Fail(option, " must be an object of tokens");
    for (const auto& [name, value] : tokens.items()) {
      if (IsRole(name)) Fail(option, ": \"", name, "\" is a role of its own");
      settings_.extra.push_back(ParseSpecial(value, option + ": " + name));
    }
  }

  // What transformers 5 does with the older list before it reads any other file.
  void RenameAdditional() {
    if (!config_.is_object() || !config_.contains(kAdditional)) return;
    const auto extra = config_.find(kExtra);
    if (extra != config_.end() && !extra->is_null() && !extra->empty()) return;
    const json tokens = config_[kAdditional];
    config_.erase(kAdditional);
    config_[kExtra] = tokens;
  }

  void ReadExtra5() {
    // Any other option whose name ends so is a token, too; those that are objects come first.
    for (const bool objects : {true, false}) {
      for (const auto& [name, value] : config_.items()) {
        if (!name.ends_with("_token") || IsRole(name)) continue;
        const bool is_token = value.is_object() && value.value(kType, json()) == kTypeToken;
        if (objects ? is_token : value.is_string()) {
          settings_.extra.push_back(ParseSpecial(value, source_ + ": option \"" + name + "\""));
        }
      }
    }
    const auto extra = config_.find(kExtra);
    if (extra == config_.end()) {
      settings_.additional = List(kAdditional);
    } else if (extra->is_object()) {
      ReadNamed(*extra);
    } else {
      settings_.additional = List(kExtra);
    }
  }

  void ReadOptions(const JsonConfig& options) {
    const char* const key = options.Has("model_max_length") ? "model_max_length" : "max_len";
    const double length = options.Double(key, kInfiniteLength);
    if (length >= kInfiniteLength) {
      settings_.model_max_length = kDefaultLength;
    } else {
      // transformers cuts nothing where only the start and end tokens would be left.
      settings_.model_max_length =
          options.IntAtLeast(key, kDefaultLength, flavour_ == TokenizerFlavour::kSlow ? 3 : 2);
      if (settings_.model_max_length > kMaxLength) {
        options.FailAt(key, "must be at most " + std::to_string(kMaxLength));
      }
    }
    settings_.padding_side = Side(options, "padding_side");
    settings_.truncation_side = Side(options, "truncation_side");
    settings_.split_special_tokens = options.Bool("split_special_tokens", false);
    if (options.Has("fast_tokenizer_files")) {
      options.FailAt("fast_tokenizer_files", "not supported (only tokenizer.json is read)");
    }
  }

  static std::optional<std::string> Side(const JsonConfig& options, const char* key) {
    if (!options.Has(key)) return std::nullopt;
    const std::string side = options.String(key, "");
    if (side != "left" && side != "right") options.FailAt(key, "must be left or right");
    return side;
  }

  const std::string folder_;
  const TokenizerFlavour flavour_;
  std::string source_;
  json config_ = json::object();
  std::map<std::string, AddedToken> by_name_;
  TokenizerSettings settings_;
};

}  // namespace

TokenizerSettings TokenizerSettings::FromFolder(const std::string& folder,
                                                TokenizerFlavour flavour) {
  return Reader(folder, flavour).Read();
}

std::vector<SpecialToken> TokenizerSettings::Specials() const {
  std::vector<std::vector<SpecialToken>> roles = {{bos}, {eos}};
  for (const std::optional<SpecialToken>& token : {unk, sep, std::optional(pad), cls, mask}) {
    if (token) roles.push_back({*token});
  }
  roles.push_back(additional);
  for (const SpecialToken& token : extra) roles.push_back({token});
  std::vector<SpecialToken> unique;
  std::set<std::string> seen;
  for (const std::vector<SpecialToken>& role : roles) {
    // Within one role a content may repeat, as a bare string and as a token with flags.
    const size_t first = unique.size();
    for (const SpecialToken& special : role) {
      const bool is_empty = special.is_text && special.token.content.empty();
      if (!is_empty && !seen.contains(special.token.content)) unique.push_back(special);
    }
    for (size_t i = first; i < unique.size(); ++i) seen.insert(unique[i].token.content);
  }
  return unique;
}

std::vector<SpecialToken> TokenizerSettings::Named() const {
  std::vector<SpecialToken> named = {bos, eos};
  for (const std::optional<SpecialToken>& token : {unk, sep, std::optional(pad), cls, mask}) {
    if (token) named.push_back(*token);
  }
  named.insert(named.end(), extra.begin(), extra.end());
  return named;
}

}  // namespace d2g::model
