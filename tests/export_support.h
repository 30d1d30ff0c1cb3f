// What the tests of model files share: a small model with its vocabulary in a folder of its own.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <memory>

#include "export/hf.h"
#include "model/model.h"
#include "tests/train_support.h"

namespace gladius::test {

inline constexpr uint64_t kSeed = 5;

inline Config small_config(const Vocab& vocab, bool tied = false) {
  Config config;
  config.name = "small";
  config.vocab = vocab.size(), config.hidden = 32, config.intermediate = 64, config.layers = 2,
  config.heads = 4;
  config.kv_heads = 2, config.context = 64, config.head_dim = 16;  // wider than hidden / heads
  config.tied = tied;
  return config;
}

struct Fixture {
  std::unique_ptr<Backend> backend = make_reference_backend();
  std::shared_ptr<BufferPool> pool = BufferPool::make();
  TemporaryFolder folder;
  Vocab vocab = llama_vocab(100, 1, true);
  Model model = new_model(small_config(vocab), kSeed, *pool);

  std::filesystem::path hf() const { return folder / "model"; }
  void save(DType dtype = DType::F32) { save_hf(hf(), model, vocab, {dtype, {}}, *backend); }
  LoadedModel load() { return load_hf(hf(), *backend, *pool); }
  std::string load_error() {
    return message_of([&] { load(); });
  }
};

inline void check_equal(const Vocab& a, const Vocab& b) {
  CHECK(a.kind == b.kind);
  CHECK(a.pre == b.pre);
  REQUIRE(a.size() == b.size());
  for (size_t i = 0; i < a.tokens.size(); ++i) {
    CAPTURE(i);
    CHECK(a.tokens[i].text == b.tokens[i].text);
    CHECK(a.tokens[i].type == b.tokens[i].type);
    CHECK(a.tokens[i].score == b.tokens[i].score);
  }
  CHECK(a.merges == b.merges);
  CHECK(a.bos == b.bos);
  CHECK(a.eos == b.eos);
  CHECK(a.unknown == b.unknown);
  CHECK(a.padding == b.padding);
  CHECK(a.end_of_generation == b.end_of_generation);
  CHECK(a.add_bos == b.add_bos);
  CHECK(a.add_eos == b.add_eos);
  CHECK(a.add_space_prefix == b.add_space_prefix);
  CHECK(a.chat_template == b.chat_template);
}

// Largest difference, relative to the value, between a model's weights and another's.
inline double largest_relative_difference(const Model& a, const Model& b) {
  double largest = 0;
  REQUIRE(a.weights.size() == b.weights.size());
  for (size_t i = 0; i < a.weights.size(); ++i) {
    REQUIRE(a.weights[i].shape() == b.weights[i].shape());
    for (int64_t k = 0; k < a.weights[i].shape().elements(); ++k) {
      const double x = a.weights[i].f32()[k], y = b.weights[i].f32()[k];
      const double difference = x == y ? 0 : std::fabs(x - y) / std::fabs(x);
      largest = difference >= 0 ? std::max(largest, difference)
                                : std::numeric_limits<double>::infinity();  // NaN, too
    }
  }
  return largest;
}

}  // namespace gladius::test
