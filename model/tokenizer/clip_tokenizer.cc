#include "model/tokenizer/clip_tokenizer.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "model/files/error.h"
#include "model/files/input_file.h"
#include "model/files/json_config.h"
#include "model/tokenizer/clip_text_splitter.h"
#include "model/tokenizer/fast_added_tokens.h"
#include "model/tokenizer/slow_added_tokens.h"
#include "model/tokenizer/tokenizer_files.h"
#include "model/tokenizer/unicode.h"

namespace d2g::model {

namespace {

constexpr const char* kSlowClass = "CLIPTokenizer";
constexpr const char* kFastClass = "CLIPTokenizerFast";
// Pieces of the slow pattern that are looked up whole.
constexpr const char* kWholePieces[] = {"<|startoftext|>", "<|endoftext|>"};

std::optional<TokenizerFlavour> FlavourOf(const std::string& name) {
  if (name == kSlowClass) return TokenizerFlavour::kSlow;
  if (name == kFastClass) return TokenizerFlavour::kFast;
  return std::nullopt;
}

// Whether transformers 4 cannot read the folder under the class that `flavour` stands for, and
// transformers 5 can: it has nothing but a tokenizer.json for CLIPTokenizer, or a list where 4
// wants an object.
bool NeedsVersion5(const std::string& folder, TokenizerFlavour flavour) {
  if (flavour == TokenizerFlavour::kSlow && !FileExists(folder + "/vocab.json") &&
      FileExists(folder + "/tokenizer.json")) {
    return true;
  }
  const std::string path = folder + "/tokenizer_config.json";
  if (!FileExists(path)) return false;
  return JsonConfig(ReadJsonFile(path), path).IsList("extra_special_tokens");
}

// The slow tokenizer's constructor makes tokens of the names of three roles.
TokenizerSettings AsSlowConstructor(TokenizerSettings settings) {
  settings.bos.is_text = settings.eos.is_text = false;
  if (settings.unk) settings.unk->is_text = false;
  return settings;
}

// The name of one more vector of a textual inversion.
std::string Companion(const std::string& token, int number) {
  return token + "_" + std::to_string(number);
}

// Keeps the first of equal merges.
void DropRepeated(MergeList& merges) {
  std::set<std::pair<std::string_view, std::string_view>> seen;
  std::erase_if(merges.pairs, [&](const auto& pair) { return !seen.insert(pair).second; });
}

}  // namespace

struct ClipTokenizer::Impl {
  void LoadSlow(const std::string& folder);
  void LoadFast(const std::string& folder);
  void AddFastTokens(const Vocabulary& vocabulary, const std::vector<SpecialToken>& specials);
  void LoadFast5(const std::string& folder, const std::string& source, const Vocabulary& vocabulary,
                 const MergeList& merges);
  std::vector<AddedToken> AddedTokens5() const;
  void FindCompanions();
  bool IsAdded(const std::string& content) const;
  void TokenizeSlow(const std::u32string& text, std::vector<int64_t>& ids) const;
  void TokenizeFast(const std::u32string& text, std::vector<int64_t>& ids) const;

  TokenizerFlavour flavour = TokenizerFlavour::kSlow;
  TokenizerSettings settings;
  std::optional<BytePairEncoding> bpe;
  std::optional<SlowAddedTokens> slow_added;
  FastAddedTokens fast_added;
  std::vector<int64_t> whole_ids;                                // of kWholePieces
  std::vector<std::pair<std::string, int64_t>> with_companions;  // see MaybeConvertPrompt
  bool pad_left = false, cut_left = false;
  int64_t bos = 0, eos = 0, pad = 0;
  int64_t vocab_size = 0;
};

void ClipTokenizer::Impl::LoadSlow(const std::string& folder) {
  const Vocabulary vocabulary = ReadVocabulary(folder + "/vocab.json");
  const MergeList merges = ReadMerges(folder + "/merges.txt");
  settings = AsSlowConstructor(TokenizerSettings::FromFolder(folder, flavour));
  slow_added.emplace(vocabulary, settings.added, settings.Specials());
  vocab_size = std::max(vocabulary.id_limit(), slow_added->id_limit());
  std::optional<std::string> unk_token;
  if (settings.unk) unk_token = settings.unk->token.content;

  auto id_of = [&](const std::string& token) {
    int64_t id = slow_added->Find(token);
    if (id < 0) id = vocabulary.Find(token);
    if (id < 0 && unk_token) id = vocabulary.Find(*unk_token);
    return id;
  };
  bos = id_of(settings.bos.token.content);
  eos = id_of(settings.eos.token.content);
  pad = id_of(settings.pad.token.content);
  for (const char* piece : kWholePieces) whole_ids.push_back(id_of(piece));
  if (flavour == TokenizerFlavour::kSlow) {
    bpe = BytePairEncoding::MakeSlow(vocabulary, merges, folder, unk_token, slow_added->All());
    return;
  }
  // The fast tokenizer is made from the slow one, whose ids stay around the text.
  MergeList unique = merges;
  DropRepeated(unique);
  bpe = BytePairEncoding::MakeFast(vocabulary, unique, folder, unk_token.value_or("None"));
  std::vector<SpecialToken> specials = settings.Specials();
  for (SpecialToken& special : specials) {
    if (!special.is_text) special.token.normalized = special.token.IsNormalized();
  }
  AddFastTokens(vocabulary, specials);
}

void ClipTokenizer::Impl::LoadFast(const std::string& folder) {
  const std::string path = folder + "/tokenizer.json";
  if (!FileExists(path)) {
    if (flavour == TokenizerFlavour::kFast5) {
      LoadFast5(folder, folder, ReadVocabulary(folder + "/vocab.json"),
                ReadMerges(folder + "/merges.txt"));
    } else {
      LoadSlow(folder);
    }
    return;
  }
  const FastTokenizerFile file = ReadFastTokenizer(path);
  if (file.split == SplitPattern::kFast5) flavour = TokenizerFlavour::kFast5;
  if (flavour == TokenizerFlavour::kFast5) {
    LoadFast5(folder, path, file.vocabulary, file.merges);
  } else {
    settings = TokenizerSettings::FromFolder(folder, flavour);
  }
  if (!settings.padding_side) settings.padding_side = file.padding_side;
  if (!settings.truncation_side) settings.truncation_side = file.truncation_side;
  if (flavour == TokenizerFlavour::kFast5) return;
  bpe = BytePairEncoding::MakeFast(file.vocabulary, file.merges, path, file.unk_token);
  bos = file.bos;
  eos = file.eos;
  fast_added.Add(file.vocabulary, file.added_tokens);
  AddFastTokens(file.vocabulary, settings.Specials());
}

void ClipTokenizer::Impl::AddFastTokens(const Vocabulary& vocabulary,
                                        const std::vector<SpecialToken>& specials) {
  std::set<std::string> special_contents, known;
  for (const SpecialToken& special : specials) special_contents.insert(special.token.content);
  std::vector<std::pair<int64_t, AddedToken>> saved = settings.added;
  std::stable_sort(saved.begin(), saved.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<AddedToken> tokens;
  for (auto& [id, token] : saved) {
    known.insert(token.content);
    tokens.push_back(std::move(token));
  }
  const std::vector<AddedToken> before = tokens;
  for (const SpecialToken& special : specials) {
    const bool is_known =
        special.is_text
            ? known.contains(special.token.content) || fast_added.Find(special.token.content) >= 0
            : std::find(before.begin(), before.end(), special.token) != before.end();
    if (!is_known) tokens.push_back(special.token);
  }
  for (AddedToken& token : tokens) {
    token.special = token.special || special_contents.contains(token.content);
  }
  fast_added.Add(vocabulary, tokens);
  fast_added.Finish(CleanFast);
  vocab_size = std::max({vocab_size, vocabulary.id_limit(), fast_added.id_limit()});
  auto id_of = [&](const std::string& token) {
    const int64_t id = fast_added.Find(token);
    return id < 0 ? vocabulary.Find(token) : id;
  };
  pad = id_of(settings.pad.token.content);
  if (pad < 0 && settings.unk) pad = id_of(settings.unk->token.content);
}

// Transformers 5 takes vocabulary, merges and added tokens from the folder, and makes all else
// anew.
void ClipTokenizer::Impl::LoadFast5(const std::string& folder, const std::string& source,
                                    const Vocabulary& vocabulary, const MergeList& merges) {
  settings = TokenizerSettings::FromFolder(folder, flavour);
  const std::string unk_token = settings.unk ? settings.unk->token.content : "None";
  bpe = BytePairEncoding::MakeFast(vocabulary, merges, source, unk_token);
  fast_added.Add(vocabulary, AddedTokens5());
  fast_added.Finish(CleanFast);
  vocab_size = std::max(vocabulary.id_limit(), fast_added.id_limit());
  const auto find = [&](const std::string& token) {
    const int64_t id = fast_added.Find(token);
    return id < 0 ? vocabulary.Find(token) : id;
  };
  const auto id_of = [&](const SpecialToken& special) {
    const int64_t id = find(special.token.content);
    return id < 0 && settings.unk ? find(unk_token) : id;
  };
  bos = id_of(settings.bos);
  eos = id_of(settings.eos);
  pad = id_of(settings.pad);
}

// The saved tokens in the order of their ids, then the special ones that are not among them.
std::vector<AddedToken> ClipTokenizer::Impl::AddedTokens5() const {
  std::vector<std::pair<int64_t, AddedToken>> saved = settings.added;
  std::stable_sort(saved.begin(), saved.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<SpecialToken> tokens;
  std::set<std::string> saved_contents, names;
  for (auto& [id, token] : saved) {
    saved_contents.insert(token.content);
    tokens.push_back({std::move(token), /*is_text=*/false});
  }
  const std::vector<SpecialToken> named = settings.Named();
  std::vector<SpecialToken> specials = named;
  specials.insert(specials.end(), settings.additional.begin(), settings.additional.end());
  for (const SpecialToken& special : specials) {
    const bool is_known = std::any_of(tokens.begin(), tokens.end(), [&](const SpecialToken& token) {
      return token.is_text == special.is_text && token.token == special.token;
    });
    if (!is_known && !saved_contents.contains(special.token.content)) tokens.push_back(special);
  }
  for (const SpecialToken& special : named) names.insert(special.token.content);
  std::vector<AddedToken> added;
  for (SpecialToken& special : tokens) {
    special.token.special |= special.is_text || names.contains(special.token.content);
    added.push_back(std::move(special.token));
  }
  return added;
}

bool ClipTokenizer::Impl::IsAdded(const std::string& content) const {
  return (flavour == TokenizerFlavour::kSlow ? slow_added->Find(content)
                                             : fast_added.Find(content)) >= 0;
}

void ClipTokenizer::Impl::FindCompanions() {
  const auto all = flavour == TokenizerFlavour::kSlow ? slow_added->All() : fast_added.All();
  for (const auto& [content, id] : all) {
    if (IsAdded(Companion(content, 1))) with_companions.emplace_back(content, id);
  }
  std::sort(with_companions.begin(), with_companions.end());
}

void ClipTokenizer::Impl::TokenizeSlow(const std::u32string& text,
                                       std::vector<int64_t>& ids) const {
  BytePairEncoding::Scratch scratch;
  auto encode = [&](const std::u32string& part) {
    const std::u32string clean = CleanSlow(part);
    for (const std::u32string_view piece : SplitPieces(clean, SplitPattern::kSlow)) {
      if (piece == U"<|startoftext|>" || piece == U"<|endoftext|>") {
        ids.push_back(whole_ids[piece == U"<|startoftext|>" ? 0 : 1]);
      } else {
        bpe->Append(piece, scratch, ids);
      }
    }
  };
  if (settings.split_special_tokens) {
    encode(text);
    return;
  }
  for (const SlowAddedTokens::Part& part : slow_added->Split(text)) {
    if (part.id >= 0) {
      ids.push_back(part.id);
    } else {
      encode(part.text);
    }
  }
}

void ClipTokenizer::Impl::TokenizeFast(const std::u32string& text,
                                       std::vector<int64_t>& ids) const {
  using Kind = FastAddedTokens::Kind;
  BytePairEncoding::Scratch scratch;
  const bool split = settings.split_special_tokens;
  const SplitPattern pattern =
      flavour == TokenizerFlavour::kFast5 ? SplitPattern::kFast5 : SplitPattern::kFast;
  for (const TextPart& part : fast_added.Split(text, Kind::kNotNormalized, split)) {
    if (part.id >= 0) {
      ids.push_back(part.id);
      continue;
    }
    const std::u32string clean = CleanFast(part.text);
    for (const TextPart& inner : fast_added.Split(clean, Kind::kNormalized, split)) {
      if (inner.id >= 0) {
        ids.push_back(inner.id);
        continue;
      }
      for (const std::u32string_view piece : SplitPieces(inner.text, pattern)) {
        bpe->Append(piece, scratch, ids);
      }
    }
  }
}

ClipTokenizer ClipTokenizer::Load(const std::string& folder, TokenizerFlavour flavour) {
  ClipTokenizer tokenizer;
  tokenizer.impl_ = std::make_unique<Impl>();
  Impl& impl = *tokenizer.impl_;
  impl.flavour = NeedsVersion5(folder, flavour) ? TokenizerFlavour::kFast5 : flavour;
  if (impl.flavour == TokenizerFlavour::kSlow) {
    impl.LoadSlow(folder);
  } else {
    impl.LoadFast(folder);
  }
  for (const auto& [id, role] : {std::pair(impl.bos, "bos_token"), std::pair(impl.eos, "eos_token"),
                                 std::pair(impl.pad, "pad_token")}) {
    if (id < 0) Fail(folder, ": ", role, " has no id, and the unk_token has none either");
  }
  impl.vocab_size = std::max({impl.vocab_size, impl.bos + 1, impl.eos + 1, impl.pad + 1});
  impl.FindCompanions();
  impl.pad_left = impl.settings.padding_side == "left";
  impl.cut_left = impl.settings.truncation_side == "left";
  return tokenizer;
}

ClipTokenizer ClipTokenizer::LoadComponent(const std::string& model_folder,
                                           const std::string& component) {
  const std::string folder = model_folder + "/" + component;
  const std::string index_path = model_folder + "/model_index.json";
  if (FileExists(index_path)) {
    const JsonConfig index(ReadJsonFile(index_path), index_path);
    const nlohmann::json& entry = index.Get(component.c_str());
    if (entry.is_array() && entry.size() == 2 && entry[1].is_string()) {
      const auto flavour = FlavourOf(entry[1].get<std::string>());
      if (flavour) return Load(folder, *flavour);
    }
    index.FailAt(component.c_str(), "not supported (only CLIPTokenizer and CLIPTokenizerFast are)");
  }
  const std::string config_path = folder + "/tokenizer_config.json";
  if (FileExists(config_path)) {
    const JsonConfig config(ReadJsonFile(config_path), config_path);
    const std::string name = config.String("tokenizer_class", kSlowClass);
    const auto flavour = FlavourOf(name);
    if (!flavour) {
      config.FailAt("tokenizer_class",
                    "not supported (only CLIPTokenizer and CLIPTokenizerFast are)");
    }
    if (flavour == TokenizerFlavour::kFast) return Load(folder, *flavour);
  }
  const bool only_fast =
      !FileExists(folder + "/vocab.json") && FileExists(folder + "/tokenizer.json");
  return Load(folder, only_fast ? TokenizerFlavour::kFast : TokenizerFlavour::kSlow);
}

ClipTokenizer::ClipTokenizer() = default;
ClipTokenizer::~ClipTokenizer() = default;
ClipTokenizer::ClipTokenizer(ClipTokenizer&&) noexcept = default;
ClipTokenizer& ClipTokenizer::operator=(ClipTokenizer&&) noexcept = default;

std::vector<int64_t> ClipTokenizer::Tokenize(const std::string& text) const {
  std::vector<int64_t> tokens;
  const std::u32string wide = DecodeUtf8(text);
  if (impl_->flavour == TokenizerFlavour::kSlow) {
    impl_->TokenizeSlow(wide, tokens);
  } else {
    impl_->TokenizeFast(wide, tokens);
  }
  return tokens;
}

std::vector<int64_t> ClipTokenizer::Encode(const std::string& text) const {
  const std::vector<int64_t> tokens = Tokenize(text);
  const auto length = static_cast<size_t>(model_max_length());
  const size_t kept = std::min(tokens.size(), length - 2);
  const auto first =
      tokens.begin() + static_cast<std::ptrdiff_t>(impl_->cut_left ? tokens.size() - kept : 0);
  std::vector<int64_t> ids;
  ids.reserve(length);
  if (impl_->pad_left) ids.resize(length - 2 - kept, impl_->pad);
  ids.push_back(impl_->bos);
  ids.insert(ids.end(), first, first + static_cast<std::ptrdiff_t>(kept));
  ids.push_back(impl_->eos);
  ids.resize(length, impl_->pad);
  // What was cut off may be unknown.
  if (std::count(ids.begin(), ids.end(), -1) > 0) impl_->bpe->FailUnknown();
  return ids;
}

std::string ClipTokenizer::MaybeConvertPrompt(const std::string& prompt) const {
  if (impl_->with_companions.empty()) return prompt;
  const std::vector<int64_t> ids = Tokenize(prompt);
  std::string converted = prompt;
  for (const auto& [token, id] : impl_->with_companions) {
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) continue;
    std::string replacement = token;
    for (int i = 1; impl_->IsAdded(Companion(token, i)); ++i) {
      replacement.append(1, ' ').append(Companion(token, i));
    }
    for (size_t at = converted.find(token); at != std::string::npos;
         at = converted.find(token, at + replacement.size())) {
      converted.replace(at, token.size(), replacement);
    }
  }
  return converted;
}

int64_t ClipTokenizer::model_max_length() const { return impl_->settings.model_max_length; }
int64_t ClipTokenizer::bos_token_id() const { return impl_->bos; }
int64_t ClipTokenizer::eos_token_id() const { return impl_->eos; }
int64_t ClipTokenizer::pad_token_id() const { return impl_->pad; }
int64_t ClipTokenizer::vocab_size() const { return impl_->vocab_size; }

}  // namespace d2g::model
