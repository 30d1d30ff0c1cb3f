// Models whose answers a test knows: the layers add nothing, and the head maps each token to one that comes
// next.
#pragma once

#include <utility>
#include <vector>

#include "model/vocab.h"
#include "tests/engine_support.h"

namespace gladius::test {

// <unk>, <s>, </s>, the 256 bytes, then the given pieces.
inline Vocab script_vocab(const std::vector<std::string>& pieces) {
  Vocab vocab;
  vocab.pre = "default";
  vocab.tokens = {
      {"<unk>", 0, TokenType::unknown}, {"<s>", 0, TokenType::control}, {"</s>", 0, TokenType::control}};
  for (int byte = 0; byte < 256; ++byte)
    vocab.tokens.push_back({fmt::format("<0x{:02X}>", byte), 0, TokenType::byte});
  for (const std::string& text : pieces) vocab.tokens.push_back({text, 0, TokenType::normal});
  vocab.unknown = 0, vocab.bos = 1, vocab.eos = 2;
  vocab.end_of_generation = {2};
  return vocab;
}

inline int32_t id_of(const Vocab& vocab, const std::string& text) {
  const auto found =
      std::find_if(vocab.tokens.begin(), vocab.tokens.end(), [&](const Token& t) { return t.text == text; });
  REQUIRE_MESSAGE(found != vocab.tokens.end(), text);
  return static_cast<int32_t>(found - vocab.tokens.begin());
}

// After token next[i].first comes next[i].second.
inline Model script_model(int64_t vocab, const std::vector<std::pair<int32_t, int32_t>>& next,
                          BufferPool& pool) {
  Config config;
  // an embedding is a unit vector, so that the head can tell tokens apart
  config.vocab = config.hidden = vocab;
  config.intermediate = config.layers = config.heads = config.kv_heads = 1;
  config.head_dim = 2;
  config.context = 64;
  Model model = blank_model(config, pool);
  for (size_t i = 0; i < model.weights.size(); ++i) {
    const bool norm = model.specs[i].init == Init::ones;
    std::fill_n(model.weights[i].f32(), model.weights[i].shape().elements(), norm ? 1.0f : 0.0f);
  }
  for (int64_t t = 0; t < vocab; ++t) model.embedding().f32()[t * vocab + t] = 1;
  for (const auto& [token, follower] : next) model.head().f32()[follower * vocab + token] = 1;
  return model;
}

}  // namespace gladius::test
