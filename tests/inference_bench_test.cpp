// The measuring behind `gladius bench`: its statistics, its counts of work, what it times and when it stops;
// and the decoder that it and text generation read with.
#include "eval/inference_bench.h"

#include <cmath>

#include "model/decoder.h"
#include "tests/engine_support.h"

using namespace gladius;
using namespace gladius::test;

namespace {

// A model without values to compute with: only the order of calls and sizes matter.
struct Idle {
  std::unique_ptr<Backend> backend = make_null_backend();
  std::shared_ptr<BufferPool> pool = BufferPool::make();
  Context ctx{*backend, *pool};
  Model model = blank_model(small_config(), *pool);
};

std::vector<int32_t> counting(int64_t n, int64_t vocab) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < n; ++i) tokens.push_back(static_cast<int32_t>(i * 7 % vocab));
  return tokens;
}

}  // namespace

TEST_CASE("mean and standard deviation of a sample") {
  // Squared distances from 5: 9 1 1 1 0 0 4 16, in all 32; over n - 1 = 7.
  const Spread eight = spread(std::vector<double>{2, 4, 4, 4, 5, 5, 7, 9});
  CHECK(eight.mean == 5);
  CHECK(eight.deviation == doctest::Approx(std::sqrt(32.0 / 7)).epsilon(1e-15));
  CHECK(spread(std::vector<double>{3}).mean == 3);
  CHECK(spread(std::vector<double>{3}).deviation == 0);
  CHECK(spread({}).mean == 0);
}

TEST_CASE("tests are called as llama-bench calls them") {
  CHECK(test_name({.prompt = 512}) == "pp512");
  CHECK(test_name({.generated = 128}) == "tg128");
  CHECK(test_name({.prompt = 512, .generated = 128}) == "pp512+tg128");
  CHECK(test_name({.generated = 128, .depth = 256}) == "tg128 @ d256");
}

TEST_CASE("operations: two for each weight of a product and each multiplication of visible attention") {
  for (const bool tied : {false, true}) {
    CAPTURE(tied);
    const Config c = small_config(tied);
    double layers = 0;
    for (const ParamSpec& spec : parameter_table(c))
      if (spec.layer >= 0 && spec.shape.rank() == 2) layers += static_cast<double>(spec.shape.elements());
    const auto head = static_cast<double>(c.vocab * c.hidden);
    // Scores and mix, each of D multiplications, for every head and every position up to this one.
    const auto attention = [&](int64_t position) {
      return static_cast<double>(2 * c.layers * c.heads * c.head_dim * (position + 1));
    };
    // The last layer's weights but those of keys and values, which only the last token needs.
    double last = 0;
    for (const ParamSpec& spec : parameter_table(c))
      for (const char* name : {"attn_q", "attn_output", "ffn_gate", "ffn_up", "ffn_down"})
        if (spec.gguf_name == fmt::format("blk.{}.{}.weight", c.layers - 1, name))
          last += static_cast<double>(spec.shape.elements());
    double prompt = 7 * layers - 6 * last + head, generated = 3 * (layers + head);
    for (int64_t position = 4; position < 11; ++position) prompt += attention(position);
    // What attention in the last layer is not computed: that of the tokens from position `begin` to `end`.
    const auto spared = [&](int64_t begin, int64_t end) {
      double sum = 0;
      for (int64_t position = begin; position < end; ++position) sum += attention(position);
      return sum / static_cast<double>(c.layers);
    };
    prompt -= spared(4, 10);
    for (int64_t position = 11; position < 14; ++position) generated += attention(position);
    CHECK(test_flops(c, {.prompt = 7, .depth = 4}) == 2 * prompt);
    CHECK(test_flops(c, {.generated = 3, .depth = 11}) == 2 * generated);
    CHECK(test_flops(c, {.prompt = 7, .generated = 3, .depth = 4}) == 2 * (prompt + generated));
    // A training step is three times as much for each position, and scores them all.
    const double training = 3 * (test_flops(c, {.prompt = 7}) + 2 * (6 * (head + last) + spared(0, 6)));
    CHECK(7 * training_flops(c, 7) == doctest::Approx(training).epsilon(1e-12));
  }
}

TEST_CASE("bytes of generation: the weights and what is remembered, for each token") {
  const std::shared_ptr<BufferPool> pool = BufferPool::make();
  for (const bool tied : {false, true}) {
    CAPTURE(tied);
    const Config c = small_config(tied);
    const int64_t unread = tied ? 0 : (c.vocab - 1) * c.hidden;  // rows of the embedding
    double expected = 0;
    for (int64_t position = 5; position < 9; ++position)
      expected += 4 * static_cast<double>(c.parameters() - unread) + 100 * static_cast<double>(position + 1);
    const double got = generation_bytes(blank_model(c, *pool), {.generated = 4, .depth = 5}, 100);
    CHECK(got == doctest::Approx(expected).epsilon(1e-12));
  }
  CHECK(generation_bytes(blank_model(small_config(), *pool), {.prompt = 5}, 100) == 0);
}

TEST_CASE("as many repetitions as asked for, and the progress that was announced") {
  Idle idle;
  for (const InferenceTest& test : {InferenceTest{.prompt = 600}, InferenceTest{.generated = 3, .depth = 9},
                                    InferenceTest{.prompt = 5, .generated = 2}}) {
    for (const bool warmup : {false, true}) {
      CAPTURE(test_name(test));
      CAPTURE(warmup);
      int64_t done = 0;
      BenchOptions options{.repetitions = 4, .warmup = warmup};
      options.progress = [&](int64_t now) {
        CHECK(now > done);
        done = now;
      };
      int between = 0;
      options.between = [&] { ++between; };
      const InferenceTimes times = time_inference(idle.ctx, idle.model, test, options);
      CHECK(times.nanoseconds.size() == 4);
      for (const int64_t ns : times.nanoseconds) CHECK(ns > 0);
      CHECK(done == test_work(test, options));
      CHECK(between == 5);
      const Config& c = idle.model.config;
      CHECK(times.cache_bytes_per_token == static_cast<size_t>(4 * 2 * c.layers * c.kv_heads * c.head_dim));
    }
  }
}

TEST_CASE("a cancelled measurement keeps the repetitions that were whole") {
  Idle idle;
  const InferenceTest test{.generated = 4};
  for (const bool in_warmup : {true, false}) {
    CAPTURE(in_warmup);
    std::atomic<bool> cancel{false};
    BenchOptions options{.repetitions = 5, .warmup = in_warmup, .cancel = &cancel};
    const int64_t once = test_work(test, {.repetitions = 1, .warmup = false});
    options.progress = [&](int64_t done) { cancel = in_warmup || done > 2 * once; };
    int between = 0;
    options.between = [&] { ++between; };
    CHECK(time_inference(idle.ctx, idle.model, test, options).nanoseconds.size() == (in_warmup ? 0 : 2));
    CHECK(between == (in_warmup ? 1 : 3));  // the first repetition had begun
  }
}

TEST_CASE("a decoder reads long inputs in pieces, and a cleared one starts anew") {
  const auto backend = make_cpu_backend(2);
  const std::shared_ptr<BufferPool> pool = BufferPool::make();
  Context ctx{*backend, *pool};
  const Model model = random_model(small_config(), 3, *pool);
  const std::vector<int32_t> tokens = counting(600, model.config.vocab);
  const std::span<const int32_t> all(tokens);
  Decoder decoder(ctx, model, 600);
  const auto logits_of = [&](std::span<const int32_t> piece) {
    const std::span<const float> logits = decoder.read(piece);
    return std::vector<float>(logits.begin(), logits.end());
  };
  const std::vector<float> at_once = logits_of(all);
  CHECK(at_once.size() == static_cast<size_t>(model.config.vocab));
  CHECK(decoder.length() == 600);
  CHECK(decoder.capacity() == 600);
  CHECK_THROWS_WITH_AS(decoder.read(all.first(1)), doctest::Contains("context of 600"), Error);

  decoder.clear();
  CHECK(decoder.length() == 0);
  logits_of(all.first(512));
  CHECK(decoder.length() == 512);
  CHECK(same_bits(logits_of(all.subspan(512)), at_once));

  decoder.clear();
  const std::atomic<bool> cancel{true};
  CHECK(decoder.read(all, &cancel).empty());
}
