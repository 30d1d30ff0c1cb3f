// Values that a forward pass gives up and the backward pass computes anew: the same bits, in less memory.
#include <span>
#include <vector>

#include "tests/batch_support.h"
#include "tests/engine_support.h"
#include "tests/process.h"
#include "tests/train_support.h"
#include "train/plan.h"

using namespace gladius;
using namespace gladius::test;

namespace {

constexpr Recompute kLight{.elementwise = true, .layers = 0};
constexpr Recompute kFirstLayer{.elementwise = false, .layers = 1};
constexpr Recompute kBoth{.elementwise = true, .layers = 1};
constexpr Recompute kFull{.elementwise = true, .layers = 2};

struct Result {
  double loss;
  std::vector<std::vector<float>> gradients;
  bool operator==(const Result&) const = default;
};

// Of two micro-batches.
Result step(Backend& backend, const Recompute& recompute, Precision precision) {
  const auto pool = BufferPool::make();
  const Model model = random_model(small_config(), 5, *pool);
  GradientStep gradients(backend, *pool, model, {3, 13, precision, recompute});
  Random random(6);
  const std::vector<Batch> batches = random_batches(random, 2, 3, 13, model.config.vocab);
  Result result{gradients.run(batches), {}};
  for (const Tensor& weight : model.weights) {
    const std::span<const float> gradient = gradient_of(weight);
    result.gradients.emplace_back(gradient.begin(), gradient.end());
  }
  return result;
}

std::string plan(std::vector<std::string> options) {
  options.insert(options.begin(), {"plan", "--model", "gladius-tiny", "--no-measure", "--batch", "64"});
  const Outcome outcome = run(options);
  CAPTURE(outcome.err);
  CHECK(outcome.code == 0);
  return outcome.out;
}

}  // namespace

TEST_CASE("what is computed anew has the same bits, and so has every gradient") {
  for_each_backend([](Backend& backend) {
    for (const Precision precision : {Precision::fp32, Precision::bf16}) {
      const Result kept = step(backend, {}, precision);
      for (const Recompute& recompute : {kLight, kFirstLayer, kBoth, kFull})
        CHECK(step(backend, recompute, precision) == kept);
    }
  });
}

TEST_CASE("each further thing that is computed anew saves the memory that it says") {
  const auto backend = make_cpu_backend(1);
  const Config config = preset("gladius-tiny");
  const int64_t B = 16, T = 128;
  const auto activations = [&](Recompute recompute) {
    return static_cast<int64_t>(
        plan_memory(config, {.B = B, .T = T, .recompute = recompute}, *backend, 0).activations);
  };
  const int64_t row = B * T * static_cast<int64_t>(sizeof(float)), C = config.hidden, F = config.intermediate,
                G = config.kv_heads * config.head_dim;
  // Two norms' outputs and SwiGLU's of each layer; those of one are there while its backward steps run, in
  // memory that may have been needed for gradients anyhow.
  const int64_t of_layer = row * (2 * C + F), saved_by_light = activations({}) - activations(kLight);
  CHECK(saved_by_light >= (config.layers - 1) * of_layer);
  CHECK(saved_by_light <= config.layers * of_layer);
  // Of a layer that is computed anew as a whole only the two inputs of its halves stay.
  const int64_t half = row * (2 * C + 2 * G + C), other_half = row * (C + 3 * F);
  for (int64_t n = 1; n < config.layers; ++n) {
    const int64_t saved = activations({true, n - 1}) - activations({true, n});
    CAPTURE(n);
    CHECK(saved > 0);
    CHECK(saved <= half + other_half);
  }
}

TEST_CASE("the least that fits into memory is taken, and no less") {
  const auto backend = make_cpu_backend(1);
  const Config config = preset("gladius-tiny");
  StepShape shape{16, 128};
  const auto needed = [&](Recompute recompute) {
    shape.recompute = recompute;
    return plan_memory(config, shape, *backend, 0).total();
  };
  const auto least = [&](size_t bytes) {
    return least_recompute(config, shape, *backend, 0,
                           [&](const MemoryPlan& plan) { return plan.total() <= bytes; });
  };
  CHECK_FALSE(least(needed({})).elementwise);
  CHECK(least(needed({}) - 1).elementwise);
  for (int64_t layers = 0; layers < config.layers; ++layers) {
    CAPTURE(layers);
    const Recompute chosen = least(needed({true, layers}));
    CHECK(chosen.elementwise);
    CHECK(chosen.layers == layers);
  }
  CHECK(least(1).layers == config.layers);
}

namespace {

// What an operation on one trained number needs.
struct OneNumber {
  std::unique_ptr<Backend> backend = make_reference_backend();
  std::shared_ptr<BufferPool> pool = BufferPool::make();
  Tape tape;
  Context ctx{*backend, *pool, &tape};
  Tensor trained(float value) {
    Tensor x = tensor_of(*pool, {1}, {value});
    x.set_requires_grad(*pool);
    return x;
  }
};

}  // namespace

TEST_CASE("values that are given up cannot be read until they are back") {
  OneNumber with;
  auto& [backend, pool, tape, ctx] = with;
  const Tensor x = with.trained(3);
  const Tensor weight = tensor_of(*pool, {1, 1}, {2});
  const Tensor y = linear(ctx, x, weight), z = linear(ctx, y, weight);
  const size_t before = pool->bytes_in_use();
  ctx.compute_anew<1>({y}, [x, weight](Context& again) { return std::array{linear(again, x, weight)}; });
  CHECK(pool->bytes_in_use() < before);
  CHECK(contains(message_of([&y] { y.f32(); }), "[1, 1]"));
  CHECK(contains(message_of([&] { y.drop_data(*pool); }), "not the pool's"));
  tape.backward(*pool, z);
  CHECK(y.f32()[0] == 6);
  CHECK(gradient_of(x)[0] == 4);
}

TEST_CASE("a step that is given up before its backward pass leaks nothing") {
  OneNumber with;
  auto& [backend, pool, tape, ctx] = with;
  {
    const Tensor x = with.trained(3);
    const Tensor y = linear(ctx, x, tensor_of(*pool, {1, 1}, {2}));
    ctx.compute_anew<1>({y}, [y](Context&) { return std::array{y}; });
  }
  tape.clear();
  CHECK(pool->bytes_in_use() == 0);
}

TEST_CASE("plan: --recompute and --memory") {
  CHECK(contains(plan({"--memory", "64GiB"}), "recomputed  nothing"));
  CHECK(contains(plan({"--recompute", "light"}), "recomputed  norms and SwiGLU"));
  CHECK(contains(plan({"--recompute", "full"}), "layers whole"));
  const Outcome outcome =
      run({"plan", "--model", "gladius-tiny", "--no-measure", "--batch", "64", "--memory", "30MiB"});
  CHECK(outcome.code == 1);
  CHECK(contains(outcome.out, "memory "));  // the plan is shown all the same
  CHECK(contains(outcome.err, "--memory 30.0 MiB"));
  CHECK(contains(outcome.err, "--batch"));
}
