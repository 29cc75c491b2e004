// CLIP's tokenizer: what is refused and how, and choices that a folder makes. What the tokens are
// is compared with transformers in component_golden_test.cc and tools/parity.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "model/tokenizer/clip_tokenizer.h"
#include "tests/model/temp_folder.h"

namespace d2g::model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Files = std::map<std::string, std::string>;

constexpr const char* kVocabulary =
    R"({"a":0,"a</w>":1,"<|startoftext|>":2,"<|endoftext|>":3,"b":4,"b</w>":5,"ab</w>":6})";
constexpr const char* kMerges = "#version: 0.2\na b</w>\n";

// The tokenizer.json of the same vocabulary.
std::string FastFile() {
  return std::string(R"json({"version":"1.0","truncation":null,"padding":null,"added_tokens":[
    {"id":7,"content":"<x>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,
     "special":true}],
    "normalizer":{"type":"Sequence","normalizers":[{"type":"NFC"},
      {"type":"Replace","pattern":{"Regex":"\\s+"},"content":" "},{"type":"Lowercase"}]},
    "pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":
      {"Regex":"'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+"},
      "behavior":"Removed","invert":true},
      {"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}]},
    "post_processor":{"type":"RobertaProcessing","sep":["<|endoftext|>",3],
      "cls":["<|startoftext|>",2],"trim_offsets":false,"add_prefix_space":false},
    "decoder":{"type":"ByteLevel"},
    "model":{"type":"BPE","dropout":null,"unk_token":"<|endoftext|>",
      "continuing_subword_prefix":"","end_of_word_suffix":"</w>","fuse_unk":false,
      "byte_fallback":false,"ignore_merges":false,"vocab":)json") +
         kVocabulary + R"(,"merges":[["a","b</w>"]]}})";
}

std::string Replaced(std::string text, const std::string& from, const std::string& to) {
  return text.replace(text.find(from), from.size(), to);
}

class TokenizerTest : public ::testing::Test {
 protected:
  // The folder's files: the defaults where `changes` has none, left out where it has an empty one.
  void Write(const Files& changes) {
    Files files = {{"vocab.json", kVocabulary}, {"merges.txt", kMerges}};
    for (const auto& [name, content] : changes) files[name] = content;
    std::filesystem::remove_all(folder_ / "tokenizer");
    std::filesystem::create_directory(folder_ / "tokenizer");
    for (const auto& [name, content] : files) {
      if (!content.empty()) folder_.Write("tokenizer/" + name, content);
    }
  }
  ClipTokenizer Load(TokenizerFlavour flavour = TokenizerFlavour::kSlow) {
    return ClipTokenizer::Load(folder_ / "tokenizer", flavour);
  }
  std::string Refusal(const Files& changes, TokenizerFlavour flavour = TokenizerFlavour::kSlow) {
    Write(changes);
    return MessageOf([&] { Load(flavour); });
  }

  const TempFolder folder_;
};

TEST_F(TokenizerTest, BadFilesAreNamed) {
  const struct {
    Files changes;
    const char* message;
  } kCases[] = {
      {{{"vocab.json", ""}}, "vocab.json: cannot be opened"},
      {{{"vocab.json", "[1]"}}, "vocab.json: not an object of token ids"},
      {{{"vocab.json", "{}"}}, "vocab.json: not an object of token ids"},
      {{{"vocab.json", "7"}}, "vocab.json: not an object of token ids"},
      {{{"vocab.json", R"({"a":1)"}}, "vocab.json: not valid JSON"},
      {{{"vocab.json", R"({"a":1,})"}}, "vocab.json: not valid JSON"},
      {{{"vocab.json", R"({"a":1} x)"}}, "vocab.json: not valid JSON"},
      {{{"vocab.json", R"({"a":-1})"}}, "id of \"a\" is -1"},
      {{{"vocab.json", R"({"a":4611686018427387904})"}},
       "id of \"a\" is 4611686018427387904, not an integer from 0 to 2147483647"},
      {{{"vocab.json", R"({"a":1.5})"}}, "id of \"a\" is 1.5"},
      {{{"vocab.json", R"({"a":"1"})"}}, "id of \"a\" is \"1\""},
      {{{"vocab.json", R"({"a":[1]})"}}, "id of \"a\" is a list"},
      {{{"vocab.json", R"({"a":{"b":1}})"}}, "is an object"},
      {{{"vocab.json", R"({"a":null})"}}, "id of \"a\" is null"},
      {{{"merges.txt", ""}}, "merges.txt: cannot be opened"},
      {{{"merges.txt", "#version: 0.2\na b</w>\nonly\n"}}, "merges.txt: line 3 is \"only\""},
      {{{"merges.txt", "#version: 0.2\na b c\n"}}, "line 2 is \"a b c\""},
      {{{"vocab.json", R"({"a":0})"},
        {"tokenizer_config.json", R"({"bos_token":"","unk_token":null})"}},
       "bos_token has no id"},
      {{{"tokenizer_config.json", "[]"}}, "tokenizer_config.json: not a JSON object"},
      {{{"tokenizer_config.json", R"({"pad_token":null})"}}, "option \"pad_token\" is null"},
      {{{"tokenizer_config.json", R"({"pad_token":7})"}}, "option \"pad_token\" is 7"},
      {{{"tokenizer_config.json", R"({"pad_token":{"content":"a"}})"}}, "\"__type\""},
      {{{"tokenizer_config.json",
         R"({"pad_token":{"content":"a","__type":"AddedToken","lstrip":1}})"}},
       "lstrip is 1"},
      {{{"tokenizer_config.json", R"({"additional_special_tokens":"a"})"}},
       "additional_special_tokens"},
      {{{"tokenizer_config.json", R"({"additional_special_tokens":[{"content":"a"}]})"}},
       "\"__type\""},
      {{{"tokenizer_config.json", R"({"extra_special_tokens":{"eos_token":"a"}})"}},
       "\"eos_token\" is a role of its own"},
      {{{"tokenizer_config.json", R"({"added_tokens_decoder":[]})"}}, "added_tokens_decoder"},
      {{{"tokenizer_config.json", R"({"added_tokens_decoder":{"x":{"content":"a"}}})"}},
       "added_tokens_decoder[\"x\"]: the id is not a number"},
      {{{"tokenizer_config.json", R"({"added_tokens_decoder":{"9999999999":{"content":"a"}}})"}},
       "id is 9999999999"},
      {{{"tokenizer_config.json", R"({"added_tokens_decoder":{"8":"a"}})"}},
       "added_tokens_decoder[\"8\"] is \"a\", not a token"},
      {{{"tokenizer_config.json",
         R"({"added_tokens_decoder":{"8":{"content":"x"},"9":{"content":"x"}}})"}},
       "\"x\" has another id, too"},
      {{{"tokenizer_config.json", R"({"model_max_length":2})"}}, "must be at least 3"},
      {{{"tokenizer_config.json", R"({"model_max_length":-5})"}}, "must be at least 3"},
      {{{"tokenizer_config.json", R"({"model_max_length":1e9})"}}, "must be at most 1048576"},
      {{{"tokenizer_config.json", R"({"model_max_length":7.5})"}}, "must be an integer"},
      {{{"tokenizer_config.json", R"({"padding_side":"top"})"}}, "padding_side"},
      {{{"tokenizer_config.json", R"({"fast_tokenizer_files":["a.json"]})"}},
       "fast_tokenizer_files"},
      {{{"special_tokens_map.json", "[]"}}, "special_tokens_map.json: not a JSON object"},
      {{{"special_tokens_map.json", R"({"pad_token":{"lstrip":true}})"}}, "not a token"},
      {{{"added_tokens.json", "[]"}}, "added_tokens.json: not an object"},
      {{{"added_tokens.json", R"({"x":-1})"}}, "added_tokens.json: \"x\": id is -1"},
      {{{"tokenizer.json", "{"}}, "tokenizer.json: not valid JSON"},
      {{{"tokenizer.json", R"({"added_tokens":[{"content":"a"}]})"}},
       "added_tokens[0]: id is null"},
  };
  for (const auto& item : kCases) EXPECT_THAT(Refusal(item.changes), HasSubstr(item.message));
  EXPECT_EQ(Refusal({}), "");
}

TEST_F(TokenizerTest, OtherFastTokenizersAreRefusedByName) {
  const struct {
    const char* from;
    const char* to;
    const char* message;
  } kCases[] = {
      {R"({"type":"NFC"})", R"({"type":"NFKC"})", "tokenizer.json: normalizer"},
      {"[\\\\p{N}]|", "[\\\\p{N}]+|", "tokenizer.json: pre_tokenizer"},
      {R"("use_regex":true)", R"("use_regex":false)", "use_regex false"},
      {R"({"type":"Sequence","pretokenizers")", R"({"type":"Other","pretokenizers")",
       "pre_tokenizer"},
      {"RobertaProcessing", "ByteLevel", "post_processor"},
      {R"(["<|endoftext|>",3])", R"(["<|endoftext|>"])", "sep"},
      {R"(["<|startoftext|>",2])", R"(["<|startoftext|>","2"])", "cls: id is \"2\""},
      {R"("type":"BPE")", R"("type":"Unigram")", "type is \"Unigram\""},
      {R"("dropout":null)", R"("dropout":0.1)", "option \"dropout\" is 0.1"},
      {R"("end_of_word_suffix":"</w>")", R"("end_of_word_suffix":"")", "end_of_word_suffix"},
      {R"("fuse_unk":false)", R"("fuse_unk":true)", "fuse_unk"},
      {R"("byte_fallback":false)", R"("byte_fallback":true)", "byte_fallback"},
      {R"("ignore_merges":false)", R"("ignore_merges":true)", "ignore_merges"},
      {R"("vocab":{"a":0)", R"("vocab":{"a":-1)", "id is -1"},
      {R"([["a","b</w>"]])", R"([["a"]])", "merge 1 is [\"a\"], not two symbols"},
      {R"([["a","b</w>"]])", R"(["a b c"])", "merge 1 is \"a b c\""},
      {R"([["a","b</w>"]])", R"([["a","q"]])", "needs the token \"q\""},
      {R"("padding":null)", R"("padding":{"direction":"Up"})", "direction is \"Up\""},
  };
  for (const auto& item : kCases) {
    EXPECT_THAT(Refusal({{"tokenizer.json", Replaced(FastFile(), item.from, item.to)}},
                        TokenizerFlavour::kFast),
                HasSubstr(item.message));
  }
  EXPECT_THAT(Refusal({{"merges.txt", "#\na q\n"}}, TokenizerFlavour::kFast),
              HasSubstr("needs the token \"q\""));
}

TEST_F(TokenizerTest, TextThatIsNotUtf8NamesTheByte) {
  Write({});
  const ClipTokenizer tokenizer = Load();
  EXPECT_THAT(tokenizer.Tokenize("ab A"), ElementsAre(6, 1));
  EXPECT_THAT(MessageOf([&] { tokenizer.Encode("ok \xff"); }), HasSubstr("byte 3"));
  EXPECT_THAT(MessageOf([&] { tokenizer.Encode("\xc0\xaf"); }), HasSubstr("byte 0"));
  EXPECT_THAT(MessageOf([&] { tokenizer.Encode("\xed\xa0\x80"); }), HasSubstr("byte 0"));
}

TEST_F(TokenizerTest, SpecialTokensWithoutIdComeAfterTheVocabulary) {
  Write({{"vocab.json", R"({"a":5,"a</w>":1})"}, {"merges.txt", "#\n"}});
  const ClipTokenizer tokenizer = Load();
  EXPECT_EQ(tokenizer.bos_token_id(), 2);
  EXPECT_EQ(tokenizer.eos_token_id(), 3);
  EXPECT_EQ(tokenizer.pad_token_id(), 3);
  EXPECT_EQ(tokenizer.vocab_size(), 6);
  EXPECT_THAT(tokenizer.Tokenize("aa<|endoftext|>"), ElementsAre(5, 1, 3));
}

TEST_F(TokenizerTest, UnknownSymbolsAreAnErrorOnlyWhereTheyStay) {
  Write({{"vocab.json", R"({"a":0,"a</w>":1})"},
         {"tokenizer_config.json", R"({"model_max_length":4})"}});
  const ClipTokenizer tokenizer = Load();
  EXPECT_THAT(MessageOf([&] { tokenizer.Encode("a q"); }),
              HasSubstr("unk_token \"<|endoftext|>\" has no id"));
  EXPECT_THAT(tokenizer.Encode("a a q"), ElementsAre(2, 1, 1, 3));
  Write({{"tokenizer_config.json", R"({"unk_token":null})"}});
  EXPECT_THAT(MessageOf([&] { Load().Encode("q"); }), HasSubstr("there is no unk_token"));
}

TEST_F(TokenizerTest, SidesAndLengths) {
  const std::string left =
      R"({"model_max_length":5,"padding_side":"left","truncation_side":"left"})";
  for (const auto flavour : {TokenizerFlavour::kSlow, TokenizerFlavour::kFast}) {
    Write({{"tokenizer_config.json", left}});
    EXPECT_THAT(Load(flavour).Encode("a"), ElementsAre(3, 3, 2, 1, 3));
    EXPECT_THAT(Load(flavour).Encode("a a b b b"), ElementsAre(2, 5, 5, 5, 3));
    Write({{"tokenizer_config.json", R"({"model_max_length":5})"}});
    EXPECT_THAT(Load(flavour).Encode("a"), ElementsAre(2, 1, 3, 3, 3));
    EXPECT_THAT(Load(flavour).Encode("a a b b b"), ElementsAre(2, 1, 1, 5, 3));
  }
  for (const char* const unset : {R"({"model_max_length":1e30})", R"({"model_max_length":null})",
                                  R"({"model_max_length":1000000000000000019884624838656})"}) {
    Write({{"tokenizer_config.json", unset}});
    EXPECT_EQ(Load().model_max_length(), 77);
  }
  // The fast tokenizer's own file says it where the config does not.
  const std::string fast =
      Replaced(FastFile(), R"("padding":null)", R"("padding":{"direction":"Left"})");
  Write({{"tokenizer.json", fast}, {"tokenizer_config.json", R"({"model_max_length":2})"}});
  EXPECT_THAT(Load(TokenizerFlavour::kFast).Encode("a"), ElementsAre(2, 3));
  Write({{"tokenizer.json", fast}, {"tokenizer_config.json", R"({"model_max_length":4})"}});
  EXPECT_THAT(Load(TokenizerFlavour::kFast).Encode("a"), ElementsAre(3, 2, 1, 3));
}

TEST_F(TokenizerTest, FilesAreReadAsPythonReadsThem) {
  // Blank lines and white space around, other line ends, escaped and repeated tokens.
  Write({{"vocab.json",
          " { \"\\u0061\" : 0 , \"a<\\/w>\":1,\n\"<|startoftext|>\":2,"
          "\"<|endoftext|>\":3,\"b\":4,\"b</w>\":7,\"b</w>\":5,\"ab</w>\":6 } \n"},
         {"merges.txt", "\n\r\n#version: 0.2\r\na \t b</w>\r\n\r\n \n"}});
  EXPECT_THAT(Load().Tokenize("ab b a"), ElementsAre(6, 5, 1));
  // The first line never counts.
  Write({{"merges.txt", "a b</w>\n"}});
  EXPECT_THAT(Load().Tokenize("ab"), ElementsAre(0, 5));
}

TEST_F(TokenizerTest, TheFolderChoosesTheFlavour) {
  // The fast tokenizer keeps a zero-width joiner, which has no id here.
  const std::string joined = "a\u200d";
  const auto is_fast = [&] {
    const ClipTokenizer tokenizer = ClipTokenizer::LoadComponent(folder_.path(), "tokenizer");
    return tokenizer.Tokenize(joined).size() > 1;
  };
  Write({});
  EXPECT_FALSE(is_fast());
  Write({{"tokenizer_config.json", R"({"tokenizer_class":"CLIPTokenizerFast"})"}});
  EXPECT_TRUE(is_fast());
  Write({{"vocab.json", ""}, {"merges.txt", ""}, {"tokenizer.json", FastFile()}});
  EXPECT_TRUE(is_fast());
  Write({{"tokenizer.json", FastFile()}});
  EXPECT_FALSE(is_fast());
  folder_.Write("model_index.json", R"({"tokenizer":["transformers","CLIPTokenizerFast"]})");
  EXPECT_TRUE(is_fast());
  // What the pipeline names counts more than what the folder says.
  folder_.Write("model_index.json", R"({"tokenizer":["transformers","CLIPTokenizer"]})");
  Write({{"tokenizer_config.json", R"({"tokenizer_class":"CLIPTokenizerFast"})"}});
  EXPECT_FALSE(is_fast());
  folder_.Write("model_index.json", R"({"tokenizer":["transformers","T5Tokenizer"]})");
  EXPECT_THAT(MessageOf(is_fast), HasSubstr("\"tokenizer\" is [\"transformers\",\"T5Tokenizer\"]"));
  folder_.Write("model_index.json", R"({"tokenizer":[null,null]})");
  EXPECT_THAT(MessageOf(is_fast), HasSubstr("\"tokenizer\" is [null,null]"));
  std::filesystem::remove(folder_ / "model_index.json");
  Write({{"tokenizer_config.json", R"({"tokenizer_class":"T5Tokenizer"})"}});
  EXPECT_THAT(MessageOf(is_fast), HasSubstr("tokenizer_class"));
}

TEST_F(TokenizerTest, WhatTransformers5SavedIsReadAsItReadsIt) {
  // Transformers 5 ends a word after the text of a special token, in whichever case it stands.
  const std::string vocabulary = Replaced(kVocabulary, "}", R"(,"></w>":7,">":8})");
  const std::string file =
      Replaced(Replaced(FastFile(), kVocabulary, vocabulary), R"("id":7)", R"("id":9)");
  const std::string file5 = Replaced(file, "'s|", R"(<\\|startoftext\\|>|<\\|endoftext\\|>|'s|)");
  const auto ends_word = [&] {
    const ClipTokenizer tokenizer = ClipTokenizer::LoadComponent(folder_.path(), "tokenizer");
    const std::vector<int64_t> ids = tokenizer.Tokenize("<|ENDOFTEXT|>!");
    return std::find(ids.begin(), ids.end(), 7) != ids.end();
  };
  for (const char* name : {"CLIPTokenizer", "CLIPTokenizerFast"}) {
    const bool is_fast = std::string(name) == "CLIPTokenizerFast";
    folder_.Write("model_index.json",
                  std::string(R"({"tokenizer":["transformers",")") + name + "\"]}");
    Write({{"vocab.json", ""}, {"merges.txt", ""}, {"tokenizer.json", file5}});
    EXPECT_TRUE(ends_word()) << name;
    // Transformers 4 has no CLIPTokenizer without vocab.json.
    Write({{"vocab.json", ""}, {"merges.txt", ""}, {"tokenizer.json", file}});
    EXPECT_EQ(ends_word(), !is_fast) << name;
    // Where both versions can read the folder, 4's class decides.
    Write({{"vocab.json", vocabulary}, {"tokenizer.json", file5}});
    EXPECT_EQ(ends_word(), is_fast) << name;
    // A list is 5's, whatever else is there.
    const std::string config = R"({"extra_special_tokens":["<y>",
        {"__type":"AddedToken","content":"<z>","lstrip":true}]})";
    Write(
        {{"vocab.json", vocabulary}, {"tokenizer.json", file}, {"tokenizer_config.json", config}});
    EXPECT_TRUE(ends_word()) << name;
    const ClipTokenizer tokenizer = ClipTokenizer::LoadComponent(folder_.path(), "tokenizer");
    EXPECT_THAT(tokenizer.Tokenize("a<y> <z><x>"), ElementsAre(1, 10, 11, 9)) << name;
    Write({{"vocab.json", vocabulary}, {"tokenizer_config.json", config}});
    EXPECT_TRUE(ends_word()) << name;
  }
}

TEST_F(TokenizerTest, ListsOfTransformers5AreChecked) {
  const auto refusal = [&](const std::string& config) {
    return Refusal({{"vocab.json", ""},
                    {"merges.txt", ""},
                    {"tokenizer.json", FastFile()},
                    {"tokenizer_config.json", config}});
  };
  EXPECT_THAT(refusal(R"({"extra_special_tokens":[1]})"),
              HasSubstr("option \"extra_special_tokens\" is 1, not a token"));
  EXPECT_THAT(refusal(R"({"extra_special_tokens":[{"content":"x"}]})"),
              HasSubstr("an object must have \"__type\": \"AddedToken\""));
  EXPECT_THAT(refusal(R"({"extra_special_tokens":"x"})"),
              HasSubstr("option \"extra_special_tokens\" must be a list of tokens"));
  EXPECT_THAT(refusal(R"({"extra_special_tokens":{"eos_token":"x"}})"),
              HasSubstr("\"eos_token\" is a role of its own"));
  EXPECT_THAT(refusal(R"({"eos_token":null})"), HasSubstr("\"eos_token\" is null"));
}

TEST_F(TokenizerTest, WhiteSpaceThatATokenTookAlongIsNoOtherToken) {
  Write({{"added_tokens.json", R"({" ":7})"},
         {"tokenizer_config.json",
          R"({"added_tokens_decoder":{"7":{"content":" ","lstrip":true,"rstrip":true}}})"}});
  EXPECT_THAT(Load(TokenizerFlavour::kFast).Tokenize("a   b"), ElementsAre(1, 7, 5));
}

TEST_F(TokenizerTest, TextualInversionsOfSeveralVectorsAreWrittenOut) {
  Write({{"added_tokens.json", R"({"<cat>":7,"<cat>_1":8,"<cat>_2":9,"<dog>":10,"<cat>_4":11})"}});
  for (const auto flavour : {TokenizerFlavour::kSlow, TokenizerFlavour::kFast}) {
    const ClipTokenizer tokenizer = Load(flavour);
    EXPECT_EQ(tokenizer.MaybeConvertPrompt("a <cat>, <dog>"), "a <cat> <cat>_1 <cat>_2, <dog>");
    EXPECT_EQ(tokenizer.MaybeConvertPrompt("a cat"), "a cat");
    EXPECT_THAT(tokenizer.Tokenize("<cat> <cat>_1"), ElementsAre(7, 8));
  }
}

TEST_F(TokenizerTest, AddedTokensOfAFastFileAreFound) {
  Write({{"tokenizer.json", FastFile()}});
  const ClipTokenizer tokenizer = Load(TokenizerFlavour::kFast);
  EXPECT_THAT(tokenizer.Tokenize("a<x>b"), ElementsAre(1, 7, 5));
  EXPECT_EQ(tokenizer.vocab_size(), 8);
  // The slow one reads them, too, where its config lists none.
  EXPECT_THAT(Load().Tokenize("a<x>b"), ElementsAre(1, 7, 5));
}

}  // namespace
}  // namespace d2g::model
