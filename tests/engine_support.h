// What the tests of the engine and the model share: the backends to test, small tensors and models, error
// bounds.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <memory>
#include <span>
#include <vector>

#include "engine/context.h"
#include "model/model.h"
#include "tests/kernels_support.h"

namespace gladius::test {

// The reference backend, one of every instruction set that this machine runs, and oneDNN's where it is built.
inline std::vector<std::unique_ptr<Backend>> all_backends(int threads = 2) {
  std::vector<std::unique_ptr<Backend>> backends;
  backends.push_back(make_reference_backend());
  for (const std::string& isa : runnable_isas()) backends.push_back(make_cpu_backend(threads, isa));
  if (!onednn_version().empty()) backends.push_back(make_onednn_backend(threads));
  return backends;
}

// Calls f(backend) for each of them, with its name in every failure's message.
template <class F>
void for_each_backend(F f, int threads = 2) {
  for (const std::unique_ptr<Backend>& backend : all_backends(threads)) {
    const std::string backend_name = backend->name();
    CAPTURE(backend_name);
    f(*backend);
  }
}

inline Tensor tensor_of(BufferPool& pool, Shape shape, std::span<const float> values) {
  Tensor tensor(pool, DType::F32, shape);
  REQUIRE(static_cast<int64_t>(values.size()) == shape.elements());
  std::copy(values.begin(), values.end(), tensor.f32());
  return tensor;
}
inline Tensor tensor_of(BufferPool& pool, Shape shape, std::initializer_list<float> values) {
  return tensor_of(pool, shape, std::span(values.begin(), values.size()));
}
inline Tensor integers_of(BufferPool& pool, std::span<const int32_t> values) {
  Tensor tensor(pool, DType::I32, {static_cast<int64_t>(values.size())});
  std::copy(values.begin(), values.end(), tensor.i32());
  return tensor;
}
inline Tensor random_tensor(Random& random, BufferPool& pool, Shape shape, float low = -1, float high = 1) {
  Tensor tensor(pool, DType::F32, shape);
  for (int64_t i = 0; i < shape.elements(); ++i) tensor.f32()[i] = random.uniform(low, high);
  return tensor;
}
inline Tensor random_integers(Random& random, BufferPool& pool, int64_t n, int64_t bound) {
  Tensor tensor(pool, DType::I32, {n});
  for (int64_t i = 0; i < n; ++i) tensor.i32()[i] = static_cast<int32_t>(random.below(bound));
  return tensor;
}
inline std::span<const float> values_of(const Tensor& tensor) {
  return {tensor.f32(), static_cast<size_t>(tensor.shape().elements())};
}
inline std::span<const float> gradient_of(const Tensor& tensor) {
  return {tensor.grad(), static_cast<size_t>(tensor.shape().elements())};
}
inline double largest(std::span<const float> values) {
  double most = 0;
  for (const float v : values) most = std::max(most, std::fabs(static_cast<double>(v)));
  return most;
}
inline double largest_difference(std::span<const float> a, std::span<const float> b) {
  REQUIRE(a.size() == b.size());
  double most = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!(difference <= most)) most = difference;  // keeps a NaN
  }
  return most;
}
inline bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

// A small model whose sizes are no multiples of vector widths.
inline Config small_config(bool tied = false) {
  Config config;
  config.name = "small";
  config.vocab = 67, config.hidden = 36, config.intermediate = 44, config.layers = 2;
  config.heads = 6, config.kv_heads = 2, config.head_dim = 10, config.context = 32;
  config.tied = tied;
  return config;
}

// A model with weights of size 1/sqrt(inputs) and norms away from 1, so that every operation matters.
inline Model random_model(const Config& config, uint64_t seed, BufferPool& pool) {
  Model model = blank_model(config, pool);
  Random random(seed);
  for (size_t i = 0; i < model.weights.size(); ++i) {
    const Tensor& weight = model.weights[i];
    const bool norm = model.specs[i].init == Init::ones;
    const float size = norm ? 0.5f : 1.7f / std::sqrt(static_cast<float>(weight.shape()[-1]));
    for (int64_t j = 0; j < weight.shape().elements(); ++j) {
      weight.f32()[j] = (norm ? 1.0f : 0.0f) + random.uniform(-size, size);
    }
  }
  set_trainable(model, pool);
  return model;
}

// Roundings on the longest way from a token to the loss: the lengths of all sums that follow one another, and
// a handful of elementwise operations in between. The backward pass retraces it with two products for each.
inline double forward_roundings(const Config& c, int64_t positions) {
  const int64_t attention =
      c.hidden + c.hidden + 2 + c.head_dim + 2 * positions + 8 + c.heads * c.head_dim + 1;
  const int64_t feed_forward = c.hidden + c.hidden + 8 + c.intermediate + 1;
  return static_cast<double>(c.layers * (attention + feed_forward) + 2 * c.hidden + c.vocab + 8);
}
inline double gradient_roundings(const Config& c, int64_t positions, int64_t rows) {
  return 3 * forward_roundings(c, positions) + static_cast<double>(rows);
}

// How far logits may be off after rounding errors, relative to the sum of magnitudes that a logit is made of.
inline double logits_bound(Context& ctx, const Model& model, const std::vector<int32_t>& tokens) {
  const auto T = static_cast<int64_t>(tokens.size()), C = model.config.hidden;
  TokenBatch batch = make_token_batch(1, T, ctx.pool);
  std::copy(tokens.begin(), tokens.end(), batch.tokens.i32());
  const Tensor hidden = forward(ctx, model, make_rope_table(model.config, T, ctx.pool), batch);
  double most = 0;
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t v = 0; v < model.config.vocab; ++v) {
      double terms = 0;
      for (int64_t c = 0; c < C; ++c)
        terms += std::fabs(static_cast<double>(hidden.f32()[t * C + c]) *
                           static_cast<double>(model.head().f32()[v * C + c]));
      most = std::max(most, terms);
    }
  }
  return 2 * roundings(forward_roundings(model.config, T)) * most;  // both sides have the error
}

inline std::vector<int32_t> random_tokens(Random& random, int64_t n, int64_t vocab) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < n; ++i) tokens.push_back(static_cast<int32_t>(random.below(vocab)));
  return tokens;
}

}  // namespace gladius::test
