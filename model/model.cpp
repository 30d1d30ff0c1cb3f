#include "model/model.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "engine/random.h"
#include "kernels/parallel.h"

namespace gladius {

namespace {
constexpr size_t kPerLayer = 9;  // weights
}

Layer Model::layer(int64_t index) const {
  const size_t first = weights.size() - kPerLayer * static_cast<size_t>(config.layers - index);
  const Tensor* w = &weights[first];  // in the order of parameter_table
  return {w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8]};
}

void initialise(const Config& config, uint64_t seed, const ParamSpec& spec, int threads, float* values) {
  const int64_t n = spec.shape.elements();
  if (spec.init == Init::ones) {
    std::fill_n(values, n, 1.0f);
    return;
  }
  constexpr double kDeviation = 0.02;
  const double residual = kDeviation / std::sqrt(2.0 * static_cast<double>(config.layers));
  const auto deviation = static_cast<float>(spec.init == Init::normal ? kDeviation : residual);
  const Random random(seed, stream_of(spec.gguf_name));
  constexpr int64_t kGrain = 1 << 16;
  parallel_ranges(threads, n, kGrain, [&](int64_t begin, int64_t end) {
    random.normal(static_cast<uint64_t>(begin), end - begin, 0.0f, deviation, values + begin);
  });
}

Model blank_model(const Config& config, BufferPool& pool) {
  Model model{config, parameter_table(config), {}};
  for (const ParamSpec& spec : model.specs) model.weights.emplace_back(pool, DType::F32, spec.shape);
  return model;
}

Model first_layers(const Model& model, int64_t layers) {
  Model first = model;
  first.config.layers = layers;
  const size_t kept = first.weights.size() - kPerLayer * static_cast<size_t>(model.config.layers - layers);
  first.specs.resize(kept);
  first.weights.resize(kept);
  return first;
}

void set_trainable(Model& model, BufferPool& pool) {
  for (Tensor& weight : model.weights) weight.set_requires_grad(pool);
}

void use_panels(Model& model, Backend& backend, BufferPool& pool,
                const std::function<void(const Tensor&)>& replaced) {
  // What becomes a copy of what: all matrices but the embedding, whose rows are looked up.
  std::vector<std::pair<Tensor*, const Tensor*>> copies;
  if (model.config.tied && !model.head_panels.panels())
    copies.emplace_back(&model.head_panels, &model.embedding());
  for (size_t i = 1; i < model.weights.size(); ++i)
    if (model.weights[i].shape().rank() == 2) copies.emplace_back(&model.weights[i], &model.weights[i]);
  std::erase_if(copies, [&](const auto& copy) { return copy.second->panels_bytes(backend) == 0; });
  if (copies.empty()) return;

  size_t bytes = 0;
  for (const auto& [to, from] : copies) bytes += from->panels_bytes(backend);
  const auto memory = std::make_shared<Tensor>(pool, DType::F32, Shape{static_cast<int64_t>(bytes / 4)});
  std::byte* next = memory->data();
  for (const auto& [to, from] : copies) {
    const Tensor before = *from;
    *to = before.in_panels(backend, next, memory);
    next += before.panels_bytes(backend);
    if (replaced) replaced(before);
  }
}

Model new_model(const Config& config, uint64_t seed, BufferPool& pool, int threads) {
  Model model = blank_model(config, pool);
  for (size_t i = 0; i < model.specs.size(); ++i) {
    initialise(config, seed, model.specs[i], threads, model.weights[i].f32());
  }
  set_trainable(model, pool);
  return model;
}

RopeTable make_rope_table(const Config& config, int64_t positions, BufferPool& pool) {
  const int64_t pairs = config.head_dim / 2;
  const RopeTable table{Tensor(pool, DType::F32, {positions, pairs}),
                        Tensor(pool, DType::F32, {positions, pairs})};
  for (int64_t i = 0; i < pairs; ++i) {
    double frequency = std::pow(static_cast<double>(config.rope_theta),
                                -2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim));
    if (!config.rope_divisors.empty())
      frequency /= static_cast<double>(config.rope_divisors[static_cast<size_t>(i)]);
    for (int64_t p = 0; p < positions; ++p) {
      const double angle = static_cast<double>(p) * frequency;
      table.cos.f32()[p * pairs + i] = static_cast<float>(std::cos(angle));
      table.sin.f32()[p * pairs + i] = static_cast<float>(std::sin(angle));
    }
  }
  return table;
}

TokenBatch make_token_batch(int64_t B, int64_t T, BufferPool& pool) {
  TokenBatch batch{B, T, Tensor(pool, DType::I32, {B * T}), Tensor(pool, DType::I32, {B * T})};
  for (int64_t m = 0; m < B * T; ++m) batch.positions.i32()[m] = static_cast<int32_t>(m % T);
  return batch;
}

}  // namespace gladius
