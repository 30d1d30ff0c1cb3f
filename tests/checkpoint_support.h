// What the tests of checkpoints share: a small one, and comparison.
#pragma once

#include <algorithm>
#include <cstring>

#include "model/params.h"
#include "tests/train_support.h"
#include "train/checkpoint.h"
#include "train/token_cache.h"

namespace gladius::test {

inline Config checkpoint_config() {
  Config config;
  config.vocab = llama_vocab(0).size();
  config.hidden = 8, config.intermediate = 12, config.layers = 2, config.heads = 2, config.kv_heads = 1;
  config.head_dim = 4, config.context = 16;
  return config;
}

// Every value differs from every other and depends on the step.
inline Checkpoint sample(int64_t step = 7) {
  static const auto pool = BufferPool::make();
  Checkpoint checkpoint;
  checkpoint.config = checkpoint_config();
  checkpoint.vocab = llama_vocab(0);
  checkpoint.state.step = step;
  checkpoint.state.optimizer_steps = step;
  checkpoint.state.position = {3, 17};
  checkpoint.state.schedule = {1e-3, 1e-4, 10, 100};
  checkpoint.state.data = "data";
  checkpoint.state.options = {
      {"batch", int64_t{4}}, {"clip", 1.0}, {"model", std::string("tiny")}, {"skip", false}};
  float value = static_cast<float>(step) * 1000;
  for (auto* tensors : {&checkpoint.weights, &checkpoint.m, &checkpoint.v}) {
    for (const ParamSpec& spec : parameter_table(checkpoint.config)) {
      Tensor tensor(*pool, DType::F32, spec.shape);
      for (int64_t i = 0; i < spec.shape.elements(); ++i) tensor.f32()[i] = value += 0.25f;
      tensors->push_back(tensor);
    }
  }
  return checkpoint;
}

inline bool same_tensors(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Tensor& x, const Tensor& y) {
    return x.shape() == y.shape() && std::memcmp(x.data(), y.data(), x.bytes()) == 0;
  });
}

inline bool same(const Checkpoint& a, const Checkpoint& b) {
  return a.config == b.config && fingerprint(a.vocab) == fingerprint(b.vocab) && a.state == b.state &&
         a.vocab.chat_template == b.vocab.chat_template && same_tensors(a.weights, b.weights) &&
         same_tensors(a.m, b.m) && same_tensors(a.v, b.v);
}

}  // namespace gladius::test
