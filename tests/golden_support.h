// The stored results of PyTorch's Llama (tests/interop/make_goldens.py says what they are) and comparing with
// them.
#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "export/safetensors.h"
#include "model/model.h"
#include "tests/engine_support.h"

namespace gladius::test {

inline nlohmann::json read_golden_json(const std::string& name) {
  std::ifstream in(std::filesystem::path(GLADIUS_TEST_DATA) / "golden" / (name + ".json"));
  REQUIRE(in);
  return nlohmann::json::parse(in);
}

struct Golden {
  nlohmann::json description;
  SafetensorsFile file;
  Config config;

  Tensor tensor(const std::string& name) const {
    const SafetensorsTensor* record = file.find(name);
    REQUIRE(record);
    return file.tensor(*record);
  }
  int64_t batch() const { return description["batch"]; }
  int64_t length() const { return description["length"]; }
};

inline Config config_of(const nlohmann::json& hf) {
  Config c;
  c.vocab = hf["vocab_size"], c.hidden = hf["hidden_size"], c.intermediate = hf["intermediate_size"];
  c.layers = hf["num_hidden_layers"], c.heads = hf["num_attention_heads"];
  c.kv_heads = hf["num_key_value_heads"];
  c.head_dim = hf["head_dim"], c.context = hf["max_position_embeddings"];
  c.norm_eps = hf["rms_norm_eps"], c.tied = hf["tie_word_embeddings"];
  const nlohmann::json& rope = hf["rope_parameters"];
  c.rope_theta = rope["rope_theta"];
  if (rope["rope_type"] == "llama3") {
    c.rope_scaling = RopeScaling{rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"],
                                 rope["original_max_position_embeddings"]};
    c.rope_divisors = rope_scaling_divisors(*c.rope_scaling, c.rope_theta, c.head_dim);
  }
  validate(c, "golden");
  return c;
}

inline Golden read_golden(const std::string& name) {
  nlohmann::json description = read_golden_json(name);
  const Config config = config_of(description["config"]);
  return {
      std::move(description),
      SafetensorsFile::open(std::filesystem::path(GLADIUS_TEST_DATA) / "golden" / (name + ".safetensors")),
      config};
}

inline Model model_of(const Golden& golden, BufferPool& pool) {
  Model model = blank_model(golden.config, pool);
  for (size_t i = 0; i < model.specs.size(); ++i) {
    const Tensor stored = golden.tensor("weight." + model.specs[i].gguf_name);
    REQUIRE(stored.shape() == model.specs[i].shape);
    std::copy_n(stored.f32(), stored.shape().elements(), model.weights[i].f32());
  }
  set_trainable(model, pool);
  return model;
}

// The tokens of a golden model, ready for the forward pass.
inline TokenBatch tokens_of(const Golden& golden, BufferPool& pool) {
  TokenBatch batch = make_token_batch(golden.batch(), golden.length(), pool);
  const Tensor stored = golden.tensor("tokens");
  std::copy_n(stored.i32(), stored.shape().elements(), batch.tokens.i32());
  return batch;
}

inline float mean_over_targets(const Tensor& targets) {
  const int32_t* first = targets.i32();
  return 1.0f / static_cast<float>(std::count_if(first, first + targets.shape().elements(),
                                                 [](int32_t target) { return target >= 0; }));
}

// How far a value computed in float32 may be from PyTorch's in double. `spread` is how far PyTorch's own
// float32 results are, at most, in eight orders of summation. Ours is one more order, from the same
// distribution of rounding errors; 8 times the largest of eight draws leaves room for its tail, for FMA, and
// for exponentials that are off by a few u. The stored value and ours are each rounded once more.
inline double golden_bound(double spread, double size) { return 8 * spread + 2 * unit_roundoff * size; }

// Adds a line to `mismatches` when the values are not within the bound.
inline void compare(const std::string& what, std::span<const float> got, std::span<const float> expected,
                    double spread, std::vector<std::string>& mismatches) {
  const double bound = golden_bound(spread, largest(expected));
  const double off = largest_difference(got, expected);
  if (!(off <= bound))
    mismatches.push_back(fmt::format("{} is off by {}, at most {} is allowed", what, off, bound));
}

inline std::string joined(const std::vector<std::string>& lines) {
  return fmt::format("{}", fmt::join(lines, "\n"));
}

}  // namespace gladius::test
