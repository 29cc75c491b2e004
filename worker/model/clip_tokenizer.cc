#include "worker/model/clip_tokenizer.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <sstream>
#include <unordered_map>
#include <utility>

#include "worker/model/error.h"
#include "worker/model/json_config.h"
#include "worker/model/unicode.h"

namespace d2g::model {

using nlohmann::json;

namespace {

// transformers reads no more merges than the original model had.
constexpr size_t kMaxMerges = 49152 - 256 - 2;
constexpr int64_t kMaxModelLength = 4096;
constexpr const char* kEndOfWord = "</w>";

// GPT-2's mapping of bytes to printable characters, as UTF-8.
std::vector<std::string> ByteSymbols() {
  std::vector<std::string> symbols(256);
  char32_t next = 256;
  for (int b = 0; b < 256; ++b) {
    const bool printable =
        (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
    symbols[b] = EncodeUtf8(std::u32string(1, printable ? static_cast<char32_t>(b) : next++));
  }
  return symbols;
}

struct AddedToken {
  std::u32string content;
  int64_t id = 0;
  bool lstrip = false;
  bool rstrip = false;
  bool single_word = false;
};

// A special token in a config: a string, or an object with "content".
struct TokenSpec {
  std::string content;
  bool lstrip = false;
  bool rstrip = false;
  bool single_word = false;
};

TokenSpec ParseTokenSpec(const json& value, const std::string& source, const std::string& key) {
  if (value.is_string()) return {value.get<std::string>()};
  if (!value.is_object() || !value.contains("content") || !value["content"].is_string()) {
    Fail(source, ": \"", key, "\" is ", value.dump(), ", not a token");
  }
  auto flag = [&](const char* name) {
    return value.contains(name) && value[name].is_boolean() && value[name].get<bool>();
  };
  return {value["content"].get<std::string>(), flag("lstrip"), flag("rstrip"), flag("single_word")};
}

std::u32string StripLeft(const std::u32string& text) {
  size_t i = 0;
  while (i < text.size() && IsSpace(text[i])) ++i;
  return text.substr(i);
}

std::u32string StripRight(const std::u32string& text) {
  size_t i = text.size();
  while (i > 0 && IsSpace(text[i - 1])) --i;
  return text.substr(0, i);
}

// BasicTokenizer: drop control characters, set CJK apart, NFC, split at white space, lower case.
std::vector<std::u32string> CleanSlow(const std::u32string& text) {
  std::u32string kept;
  for (const char32_t c : text) {
    if (c == 0 || c == 0xFFFD || IsControl(c)) continue;
    if (c == '\t' || c == '\n' || c == '\r' || IsSeparator(c)) {
      kept += U' ';
    } else if (IsCjkIdeograph(c)) {
      kept += U' ';
      kept += c;
      kept += U' ';
    } else {
      kept += c;
    }
  }
  std::vector<std::u32string> words;
  std::u32string word;
  for (const char32_t c : NormalizeNfc(kept) + U" ") {
    if (!IsSpace(c)) {
      word += c;
    } else if (!word.empty()) {
      words.push_back(ToLower(word, /*final_sigma=*/true));
      word.clear();
    }
  }
  return words;
}

// The fast tokenizer's normaliser: NFC, white space, lower case.
std::vector<std::u32string> CleanFast(const std::u32string& text) {
  std::vector<std::u32string> words;
  std::u32string word;
  for (const char32_t c : NormalizeNfc(text) + U" ") {
    // Python also splits at the information separators; Unicode's White_Space does not.
    if (!IsSpace(c) || (c >= 0x1C && c <= 0x1F)) {
      word += c;
    } else if (!word.empty()) {
      words.push_back(ToLower(word, /*final_sigma=*/false));
      word.clear();
    }
  }
  return words;
}

// The length of a contraction ('s 't 're 've 'm 'll 'd) at `at`, or 0. The pattern ignores case,
// and the long s folds to s.
size_t ContractionLength(const std::u32string& text, size_t at) {
  if (text[at] != U'\'') return 0;
  auto letter = [&](size_t i) {
    const char32_t c = i < text.size() ? text[i] : 0;
    return c == 0x17F ? U's' : c;
  };
  for (const char32_t* const suffix : {U"s", U"t", U"re", U"ve", U"m", U"ll", U"d"}) {
    const std::u32string letters = suffix;
    size_t i = 0;
    while (i < letters.size() && letter(at + 1 + i) == letters[i]) ++i;
    if (i == letters.size()) return 1 + i;
  }
  return 0;
}

// Splits a word into what BPE sees: special tokens, contractions, runs of letters, single digits,
// runs of the rest.
std::vector<std::u32string> SplitWord(const std::u32string& word) {
  std::vector<std::u32string> pieces;
  for (size_t i = 0; i < word.size();) {
    size_t length = 0;
    for (const char32_t* const special : {U"<|startoftext|>", U"<|endoftext|>"}) {
      const std::u32string token = special;
      if (word.compare(i, token.size(), token) == 0) length = token.size();
    }
    if (length == 0) length = ContractionLength(word, i);
    if (length == 0 && IsNumber(word[i])) length = 1;
    if (length == 0) {
      const bool letters = IsLetter(word[i]);
      while (i + length < word.size() && IsLetter(word[i + length]) == letters &&
             (letters || !IsNumber(word[i + length]))) {
        ++length;
      }
    }
    pieces.push_back(word.substr(i, length));
    i += length;
  }
  return pieces;
}

}  // namespace

struct ClipTokenizer::Impl {
  void LoadVocabulary(const std::string& path);
  void LoadMerges(const std::string& path);
  void LoadSpecialTokens(const std::string& folder);
  int64_t IdOf(const TokenSpec& spec, const std::string& source, const char* key);
  void Add(const TokenSpec& spec, int64_t id);
  std::vector<std::string> Bpe(const std::string& word_bytes) const;
  void AppendPiece(const std::u32string& piece, std::vector<int64_t>& ids) const;
  // Text and added tokens in turn; added tokens carry their position in `added`, text -1.
  std::vector<std::pair<std::u32string, int>> SplitAtAddedTokens(const std::u32string& text) const;

  TokenizerFlavour flavour = TokenizerFlavour::kSlow;
  std::unordered_map<std::string, int64_t> ids;
  std::unordered_map<std::string, size_t> ranks;  // "first second" -> rank
  std::vector<AddedToken> added;
  std::vector<std::string> byte_symbols = ByteSymbols();
  int64_t max_length = 77;
  int64_t bos = 0, eos = 0, pad = 0, unknown = 0;
  int64_t vocab_size = 0;
};

void ClipTokenizer::Impl::LoadVocabulary(const std::string& path) {
  const json vocab = ReadJsonFile(path);
  if (!vocab.is_object() || vocab.empty()) Fail(path, ": not an object of token ids");
  for (const auto& [token, id] : vocab.items()) {
    if (!id.is_number_unsigned()) Fail(path, ": id of \"", token, "\" is ", id.dump());
    ids[token] = id.get<int64_t>();
    vocab_size = std::max(vocab_size, ids[token] + 1);
  }
}

void ClipTokenizer::Impl::LoadMerges(const std::string& path) {
  std::istringstream file(ReadFileToString(path));
  std::string line;
  for (size_t number = 1; std::getline(file, line); ++number) {
    if (number == 1) continue;  // the version
    if (ranks.size() == kMaxMerges) break;
    std::istringstream parts(line);
    std::string first, second, rest;
    if (!(parts >> first)) continue;
    if (!(parts >> second) || parts >> rest) {
      Fail(path, ": line ", number, " is \"", line, "\", not two symbols");
    }
    ranks.try_emplace(first + " " + second, number);
  }
}

int64_t ClipTokenizer::Impl::IdOf(const TokenSpec& spec, const std::string& source,
                                  const char* key) {
  for (const AddedToken& token : added) {
    if (EncodeUtf8(token.content) == spec.content) return token.id;
  }
  const auto it = ids.find(spec.content);
  if (it == ids.end()) {
    Fail(source, ": ", key, " \"", spec.content, "\" has no id in vocab.json");
  }
  return it->second;
}

void ClipTokenizer::Impl::Add(const TokenSpec& spec, int64_t id) {
  const std::u32string content = DecodeUtf8(spec.content);
  if (content.empty()) return;
  for (const AddedToken& token : added) {
    if (token.content == content) return;
  }
  added.push_back({content, id, spec.lstrip, spec.rstrip, spec.single_word});
  vocab_size = std::max(vocab_size, id + 1);
}

void ClipTokenizer::Impl::LoadSpecialTokens(const std::string& folder) {
  const std::string config_path = folder + "/tokenizer_config.json";
  json config = json::object();
  if (std::filesystem::exists(config_path)) config = ReadJsonFile(config_path);
  const JsonConfig options(config, config_path);
  // A model_max_length of 1e30 means that none was set.
  const double length = options.Double("model_max_length", 77);
  max_length = length > static_cast<double>(kMaxModelLength) ? 77 : static_cast<int64_t>(length);
  if (max_length < 2) options.FailAt("model_max_length", "must be at least 2");
  options.RequireDefault("padding_side", "right");
  options.RequireDefault("truncation_side", "right");

  if (options.Has("added_tokens_decoder")) {
    const json& decoder = options.Get("added_tokens_decoder");
    if (!decoder.is_object()) options.FailAt("added_tokens_decoder", "must be an object");
    for (const auto& [id, token] : decoder.items()) {
      if (id.empty() || id.size() > 9 || id.find_first_not_of("0123456789") != std::string::npos) {
        Fail(config_path, ": added_tokens_decoder id \"", id, "\" is not a number");
      }
      Add(ParseTokenSpec(token, config_path, id), std::stoll(id));
    }
  } else {
    // Folders saved by old versions keep these in files of their own.
    const std::string map_path = folder + "/special_tokens_map.json";
    if (std::filesystem::exists(map_path)) config.update(ReadJsonFile(map_path));
    const std::string added_path = folder + "/added_tokens.json";
    if (std::filesystem::exists(added_path)) {
      const json tokens = ReadJsonFile(added_path);
      if (!tokens.is_object()) Fail(added_path, ": not an object of token ids");
      for (const auto& [token, id] : tokens.items()) {
        if (!id.is_number_unsigned()) Fail(added_path, ": id of \"", token, "\" is ", id.dump());
        Add({token}, id.get<int64_t>());
      }
    }
  }
  auto special = [&](const char* key, const char* fallback) {
    const auto it = config.find(key);
    const TokenSpec spec = it == config.end() || it->is_null()
                               ? TokenSpec{fallback}
                               : ParseTokenSpec(*it, config_path, key);
    const int64_t id = IdOf(spec, folder, key);
    Add(spec, id);
    return id;
  };
  bos = special("bos_token", "<|startoftext|>");
  eos = special("eos_token", "<|endoftext|>");
  unknown = special("unk_token", "<|endoftext|>");
  pad = special("pad_token", "<|endoftext|>");
  const auto more = config.find("additional_special_tokens");
  if (more != config.end() && more->is_array()) {
    for (const json& token : *more) {
      const TokenSpec spec = ParseTokenSpec(token, config_path, "additional_special_tokens");
      Add(spec, IdOf(spec, folder, "additional_special_tokens"));
    }
  }
}

std::vector<std::pair<std::u32string, int>> ClipTokenizer::Impl::SplitAtAddedTokens(
    const std::u32string& text) const {
  std::vector<std::pair<std::u32string, int>> parts;
  std::u32string plain;
  for (size_t i = 0; i < text.size();) {
    int best = -1;
    for (size_t k = 0; k < added.size(); ++k) {
      const std::u32string& token = added[k].content;
      if (text.compare(i, token.size(), token) == 0 &&
          (best < 0 || token.size() > added[best].content.size())) {
        best = static_cast<int>(k);
      }
    }
    if (best < 0) {
      plain += text[i++];
      continue;
    }
    if (!plain.empty()) parts.emplace_back(std::exchange(plain, {}), -1);
    parts.emplace_back(added[best].content, best);
    i += added[best].content.size();
  }
  if (!plain.empty()) parts.emplace_back(plain, -1);
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].second < 0) continue;
    const AddedToken& token = added[parts[i].second];
    const bool left = i > 0 && !parts[i - 1].first.empty();
    const bool right = i + 1 < parts.size();
    if (token.rstrip && right) parts[i + 1].first = StripLeft(parts[i + 1].first);
    if (token.lstrip && left) parts[i - 1].first = StripRight(parts[i - 1].first);
    if (token.single_word && left && parts[i - 1].first.back() != U' ') {
      parts[i - 1].first += parts[i].first;
      parts[i - 1].second = -1;
      parts[i] = {U"", -1};
    } else if (token.single_word && right && parts[i + 1].first.front() != U' ') {
      parts[i + 1] = {parts[i].first + parts[i + 1].first, -1};
      parts[i] = {U"", -1};
    }
  }
  return parts;
}

std::vector<std::string> ClipTokenizer::Impl::Bpe(const std::string& bytes) const {
  std::vector<std::string> symbols;
  for (const char byte : bytes) symbols.push_back(byte_symbols[static_cast<uint8_t>(byte)]);
  symbols.back() += kEndOfWord;
  while (symbols.size() > 1) {
    size_t best_rank = std::numeric_limits<size_t>::max(), best = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto it = ranks.find(symbols[i] + " " + symbols[i + 1]);
      if (it != ranks.end() && it->second < best_rank) {
        best_rank = it->second;
        best = i;
      }
    }
    if (best_rank == std::numeric_limits<size_t>::max()) break;
    const std::string first = symbols[best], second = symbols[best + 1];
    std::vector<std::string> merged;
    for (size_t i = 0; i < symbols.size();) {
      if (i + 1 < symbols.size() && symbols[i] == first && symbols[i + 1] == second) {
        merged.push_back(first + second);
        i += 2;
      } else {
        merged.push_back(symbols[i++]);
      }
    }
    symbols = std::move(merged);
  }
  return symbols;
}

void ClipTokenizer::Impl::AppendPiece(const std::u32string& piece,
                                      std::vector<int64_t>& out) const {
  auto id_of = [&](const std::string& symbol) {
    const auto it = ids.find(symbol);
    return it == ids.end() ? unknown : it->second;
  };
  if (piece == U"<|startoftext|>" || piece == U"<|endoftext|>") {
    out.push_back(id_of(EncodeUtf8(piece)));
    return;
  }
  for (const std::string& symbol : Bpe(EncodeUtf8(piece))) out.push_back(id_of(symbol));
}

ClipTokenizer ClipTokenizer::Load(const std::string& folder, TokenizerFlavour flavour) {
  ClipTokenizer tokenizer;
  tokenizer.impl_ = std::make_unique<Impl>();
  tokenizer.impl_->flavour = flavour;
  tokenizer.impl_->LoadVocabulary(folder + "/vocab.json");
  tokenizer.impl_->LoadMerges(folder + "/merges.txt");
  tokenizer.impl_->LoadSpecialTokens(folder);
  return tokenizer;
}

ClipTokenizer::ClipTokenizer() = default;
ClipTokenizer::~ClipTokenizer() = default;
ClipTokenizer::ClipTokenizer(ClipTokenizer&&) noexcept = default;
ClipTokenizer& ClipTokenizer::operator=(ClipTokenizer&&) noexcept = default;

std::vector<int64_t> ClipTokenizer::Tokenize(const std::string& text) const {
  std::vector<int64_t> tokens;
  for (const auto& [part, token] : impl_->SplitAtAddedTokens(DecodeUtf8(text))) {
    if (token >= 0) {
      tokens.push_back(impl_->added[token].id);
      continue;
    }
    const auto words =
        impl_->flavour == TokenizerFlavour::kSlow ? CleanSlow(part) : CleanFast(part);
    for (const std::u32string& word : words) {
      for (const std::u32string& piece : SplitWord(word)) impl_->AppendPiece(piece, tokens);
    }
  }
  return tokens;
}

std::vector<int64_t> ClipTokenizer::Encode(const std::string& text) const {
  const std::vector<int64_t> tokens = Tokenize(text);
  const auto limit = static_cast<size_t>(impl_->max_length);
  std::vector<int64_t> ids = {impl_->bos};
  ids.insert(ids.end(), tokens.begin(),
             tokens.begin() + static_cast<std::ptrdiff_t>(std::min(tokens.size(), limit - 2)));
  ids.push_back(impl_->eos);
  ids.resize(limit, impl_->pad);
  return ids;
}

int64_t ClipTokenizer::model_max_length() const { return impl_->max_length; }
int64_t ClipTokenizer::bos_token_id() const { return impl_->bos; }
int64_t ClipTokenizer::eos_token_id() const { return impl_->eos; }
int64_t ClipTokenizer::pad_token_id() const { return impl_->pad; }
int64_t ClipTokenizer::vocab_size() const { return impl_->vocab_size; }

}  // namespace d2g::model
