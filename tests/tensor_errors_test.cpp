// The estimate of what each tensor costs, against replacing one after the other.
#include "eval/tensor_errors.h"

#include <cmath>

#include "tests/engine_support.h"
#include "tests/train_support.h"

using namespace gladius;
using namespace gladius::test;

namespace {

constexpr int64_t kContext = 12, kWindows = 4, kSamples = 400;
constexpr int32_t kBos = 1;

Config block_config(bool tied) {  // rows that blocks of 32 fill
  Config config = test::small_config(tied);
  config.hidden = 32, config.intermediate = 64, config.heads = 4, config.kv_heads = 2, config.head_dim = 8;
  return config;
}

std::vector<int32_t> random_tokens(int64_t n, int64_t vocab) {
  test::Random random(3);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < n; ++i) tokens.push_back(static_cast<int32_t>(random.below(vocab)));
  return tokens;
}

// The model with its matrices quantised, by turns coarsely and finely.
Model quantised(const Model& base, Backend& backend, BufferPool& pool) {
  Model model = base;
  for (size_t k = 0; k < model.weights.size(); ++k) {
    const Tensor& weight = base.weights[k];
    if (base.specs[k].init == Init::ones) continue;
    const DType type = k % 2 == 0 ? DType::Q4_0 : DType::Q5_0;
    model.weights[k] = Tensor(pool, type, weight.shape());
    backend.quantize(type, weight.shape()[0], weight.shape()[1], weight.f32(), nullptr,
                     model.weights[k].data());
  }
  return model;
}

// W + step (W_tested - W) for the tensors of `chosen`.
Model along(const Model& base, const Model& tested, const std::vector<size_t>& chosen, float step,
            Backend& backend, BufferPool& pool) {
  Model model = base;
  for (const size_t k : chosen) {
    const Tensor& weight = base.weights[k];
    const int64_t n = weight.shape().elements(), K = weight.shape()[-1];
    model.weights[k] = Tensor(pool, DType::F32, weight.shape());
    float* w = model.weights[k].f32();
    backend.dequantize(tested.weights[k].dtype(), n / K, K, tested.weights[k].data(), w);
    for (int64_t i = 0; i < n; ++i) w[i] = weight.f32()[i] + step * (w[i] - weight.f32()[i]);
  }
  return model;
}

// Mean KL(base || model) over the windows' scored positions, in double.
class Divergence {
 public:
  Divergence(Context& ctx, const Model& base, const Chunks& windows) : ctx_(ctx), windows_(windows) {
    base_ = log_probabilities(base);
  }
  double of(const Model& model) {
    const auto q = log_probabilities(model);
    double sum = 0;
    for (size_t i = 0; i < q.size(); ++i) sum += std::exp(base_[i]) * (base_[i] - q[i]);
    return sum / static_cast<double>(windows_.positions());
  }

 private:
  std::vector<double> log_probabilities(const Model& model) {
    const int64_t V = model.config.vocab;
    const RopeTable table = make_rope_table(model.config, kContext, ctx_.pool);
    TokenBatch batch = make_token_batch(1, kContext, ctx_.pool);
    std::vector<double> all;
    for (int64_t window = 0; window < windows_.count; ++window) {
      std::copy_n(windows_.tokens.begin() + window * kContext, kContext, batch.tokens.i32());
      batch.tokens.i32()[0] = kBos;
      const Tensor scores = logits(ctx_, model, forward(ctx_, model, table, batch));
      for (int64_t t = kContext / 2; t < kContext - 1; ++t) {
        const float* row = scores.f32() + t * V;
        double sum = 0;
        for (int64_t v = 0; v < V; ++v) sum += std::exp(static_cast<double>(row[v]));
        for (int64_t v = 0; v < V; ++v) all.push_back(static_cast<double>(row[v]) - std::log(sum));
      }
    }
    return all;
  }

  Context& ctx_;
  const Chunks windows_;
  std::vector<double> base_;
};

// The divergence of a replacement, and its second-order part: along a step s it is a s² + b s³ + c s⁴ + …, so
// (16 even(1/2) - even(1)) / 3 = a + O(s⁶), where even(s) is the mean of steps s and -s.
struct Truth {
  double kld, second_order;
};
template <class F>
Truth truth_of(F divergence_at) {
  const double whole = divergence_at(1.0f), even = (whole + divergence_at(-1.0f)) / 2,
               half = (divergence_at(0.5f) + divergence_at(-0.5f)) / 2;
  return {whole, (16 * half - even) / 3};
}

}  // namespace

TEST_CASE("each tensor's estimate is what replacing it costs, to second order") {
  for (const bool tied : {false, true}) {
    CAPTURE(tied);
    const Config config = block_config(tied);
    const auto pool = BufferPool::make();
    const auto reference = make_reference_backend(), backend = make_cpu_backend(2), one = make_cpu_backend(1);
    Context plain{*reference, *pool}, ctx{*backend, *pool}, narrow{*one, *pool};
    const Model base = random_model(config, 7, *pool), tested = quantised(base, *reference, *pool);
    const std::vector<int32_t> tokens = random_tokens(kWindows * kContext, config.vocab);
    const Chunks windows = cut_chunks(tokens, kContext, 0);
    const TensorErrors errors = tensor_errors(ctx, base, tested, windows, kSamples, kBos, 1);
    CHECK(errors.windows == kSamples);
    REQUIRE(errors.kld.size() == base.weights.size());

    Divergence divergence(plain, base, windows);
    std::vector<size_t> all;
    std::vector<double> truths;
    const auto check = [&](const Estimate& estimate, const std::vector<size_t>& chosen) {
      const Truth truth = truth_of(
          [&](float step) { return divergence.of(along(base, tested, chosen, step, *reference, *pool)); });
      CAPTURE(truth.kld);
      CAPTURE(estimate.value);
      CAPTURE(estimate.error);
      CHECK(std::fabs(estimate.value - truth.kld) <=
            4 * estimate.error + std::fabs(truth.kld - truth.second_order));
      // The remainder may not be what makes the bound: the estimate is of some use.
      CHECK(std::fabs(truth.kld - truth.second_order) <= 0.5 * truth.kld);
      // The square of a nearly normal sum: its deviation is sqrt(2) of its mean, more over windows that
      // differ.
      CHECK(estimate.error <= 2 * std::sqrt(2.0 / kSamples) * estimate.value);
      return truth.kld;
    };
    for (size_t k = 0; k < base.weights.size(); ++k) {
      CAPTURE(base.specs[k].gguf_name);
      if (base.specs[k].init == Init::ones) {
        CHECK(errors.kld[k].value == 0);
        truths.push_back(0);
        continue;
      }
      truths.push_back(check(errors.kld[k], {k}));
      all.push_back(k);
    }
    check(errors.together, all);
    // Errors are about sqrt(2 / 400) = 7 % of the values: four of them cannot turn round what differs
    // twofold.
    int clear = 0;
    for (size_t a = 0; a < truths.size(); ++a)
      for (size_t b = 0; b < truths.size(); ++b)
        if (truths[a] > 2 * truths[b]) {
          ++clear;
          CHECK(errors.kld[a].value > errors.kld[b].value);
        }
    CHECK(clear > 20);

    const TensorErrors again = tensor_errors(narrow, base, tested, windows, 3, kBos, 1),
                       wide = tensor_errors(ctx, base, tested, windows, 3, kBos, 1);
    for (size_t k = 0; k < base.weights.size(); ++k) CHECK(again.kld[k].value == wide.kld[k].value);
  }
}

TEST_CASE("models of other architectures are refused") {
  const auto pool = BufferPool::make();
  const Config config = block_config(false);
  const Model a = blank_model(config, *pool);
  const auto message = [&](auto change) {
    Config other = config;
    change(other);
    return message_of([&] { check_same_architecture(a, "a.gguf", blank_model(other, *pool), "b.gguf"); });
  };
  CHECK(message([](Config&) {}).empty());
  CHECK(message([](Config& c) { c.name = "other", c.context = 99; }).empty());
  CHECK(contains(message([](Config& c) { c.layers = 1; }), "b.gguf"));
  CHECK(contains(message([](Config& c) { c.intermediate = 96; }), "ffn_gate"));
  CHECK(contains(message([](Config& c) { c.rope_theta = 5; }), "RoPE"));
}

TEST_CASE("the heat map has a cell for each tensor, named by layer and kind") {
  TensorErrors errors;
  errors.specs = parameter_table(block_config(false));
  for (size_t k = 0; k < errors.specs.size(); ++k) errors.kld.push_back({static_cast<double>(k) * 1e-4, 0});
  const std::string svg = tensor_errors_svg(errors, "a < b & c");
  const auto count = [&](std::string_view part) {
    size_t found = 0;
    for (size_t at = svg.find(part); at != svg.npos; at = svg.find(part, at + 1)) ++found;
    return found;
  };
  CHECK(svg.starts_with("<svg "));
  CHECK(svg.ends_with("</svg>\n"));
  CHECK(count("<rect ") == errors.specs.size() + 1);
  CHECK(count(">a &lt; b &amp; c<") == 1);
  for (const char* text : {">token_embd<", ">output_norm<", ">output<", ">attn_q<", ">ffn_down<", ">layer 1<",
                           ">0<", ">2.0e-03<"})
    CHECK_MESSAGE(count(text) == 1, text);
}
