// What is refused at load, and how.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/worker/model/temp_folder.h"
#include "worker/model/autoencoder_kl.h"
#include "worker/model/clip_text_model.h"
#include "worker/model/clip_tokenizer.h"

namespace d2g::model {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(ClipTextModelTest, BadIdsAreNamed) {
  ClipTextConfig config;
  config.vocab_size = 10;
  config.hidden_size = 8;
  config.intermediate_size = 8;
  config.num_hidden_layers = 0;
  config.num_attention_heads = 2;
  config.max_position_embeddings = 4;
  const ClipTextModel model(config, {{"embeddings.token_embedding.weight", at::randn({10, 8})},
                                     {"embeddings.position_embedding.weight", at::randn({4, 8})},
                                     {"final_layer_norm.weight", at::ones({8})},
                                     {"final_layer_norm.bias", at::zeros({8})}});
  EXPECT_EQ(model.Forward(at::zeros({1, 4}, at::kLong)).sizes(), at::IntArrayRef({1, 4, 8}));
  EXPECT_THAT(MessageOf([&] {
                model.Forward(at::full({1, 2}, 10, at::kLong));
              }),
              HasSubstr("token id 10 is not below vocab_size = 10"));
  EXPECT_THAT(MessageOf([&] {
                model.Forward(at::full({1, 2}, -1, at::kLong));
              }),
              HasSubstr("token id -1"));
  EXPECT_THAT(MessageOf([&] {
                model.Forward(at::zeros({1, 5}, at::kLong));
              }),
              HasSubstr("max_position_embeddings = 4"));
}

TEST(ClipTokenizerTest, BadFilesAreNamed) {
  const TempFolder folder;
  auto load = [&] { return MessageOf([&] { ClipTokenizer::Load(folder.path()); }); };
  EXPECT_THAT(load(), HasSubstr("vocab.json: cannot be opened"));
  folder.Write("vocab.json", R"({"a":0,"a</w>":1})");
  EXPECT_THAT(load(), HasSubstr("merges.txt: cannot be opened"));
  folder.Write("merges.txt", "#version: 0.2\na a</w>\nonly\n");
  EXPECT_THAT(load(), HasSubstr("line 3 is \"only\""));
  folder.Write("merges.txt", "#version: 0.2\n");
  EXPECT_THAT(load(), HasSubstr("bos_token \"<|startoftext|>\" has no id"));
  folder.Write("vocab.json", R"({"a":0,"a</w>":1,"<|startoftext|>":2,"<|endoftext|>":3})");
  EXPECT_EQ(load(), "");
  const ClipTokenizer tokenizer = ClipTokenizer::Load(folder.path());
  EXPECT_THAT(tokenizer.Tokenize("aa A"), ::testing::ElementsAre(0, 1, 1));
  EXPECT_THAT(MessageOf([&] { tokenizer.Encode("ok \xff"); }), HasSubstr("byte 3"));
  EXPECT_THAT(MessageOf([&] { tokenizer.Encode("\xc0\xaf"); }), HasSubstr("byte 0"));
  EXPECT_THAT(MessageOf([&] { tokenizer.Encode("\xed\xa0\x80"); }), HasSubstr("byte 0"));
  folder.Write("tokenizer_config.json", R"({"padding_side":"left"})");
  EXPECT_THAT(load(), HasSubstr("padding_side"));
  folder.Write("vocab.json", R"({"a":-1})");
  EXPECT_THAT(load(), HasSubstr("id of \"a\" is -1"));
}

}  // namespace
}  // namespace d2g::model
