// Importance matrices of tiny models against plain loops over what each weight is multiplied with.
#include "eval/importance_collector.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "tests/engine_support.h"
#include "tests/train_support.h"

using namespace gladius;
using test::contains;
using test::message_of;

namespace {

constexpr int64_t kContext = 9, kChunks = 3;
constexpr int32_t kBos = 1;

std::vector<int32_t> some_tokens(const Config& config, int64_t count) {
  test::Random random(11);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(static_cast<int32_t>(random.below(config.vocab)));
  return tokens;
}

// Weights in Q8_0, whose products round their inputs: what is summed are the inputs before that.
Model quantised(const Model& model, Backend& backend, BufferPool& pool) {
  Model result = model;
  for (Tensor& weight : result.weights) {
    if (weight.shape().rank() != 2) continue;
    Tensor packed(pool, DType::Q8_0, weight.shape());
    backend.quantize(DType::Q8_0, weight.shape()[0], weight.shape()[1], weight.f32(), nullptr, packed.data());
    weight = packed;
  }
  return result;
}

Config rows_of_32() {
  Config config = test::small_config();
  config.hidden = 64, config.intermediate = 96, config.head_dim = 16, config.heads = 4;
  return config;
}

using Sums = std::map<std::string, std::vector<long double>>;

void add_squares(Sums& sums, const std::string& weight, const Tensor& x) {
  const int64_t M = x.shape().rows(), K = x.shape()[-1];
  std::vector<long double>& sum = sums[weight];
  sum.resize(static_cast<size_t>(K));
  for (int64_t m = 0; m < M; ++m) {
    for (int64_t k = 0; k < K; ++k) {
      const long double value = x.f32()[m * K + k];
      sum[static_cast<size_t>(k)] += value * value;
    }
  }
}

// The forward pass written out once more, with the sums beside it.
void add_chunk(Sums& sums, Context& ctx, const Model& model, std::span<const int32_t> tokens) {
  const Config& c = model.config;
  const int64_t T = static_cast<int64_t>(tokens.size());
  const RopeTable table = make_rope_table(c, T, ctx.pool);
  TokenBatch batch = make_token_batch(1, T, ctx.pool);
  std::copy(tokens.begin(), tokens.end(), batch.tokens.i32());
  batch.tokens.i32()[0] = kBos;
  Tensor x = embedding(ctx, model.embedding(), batch.tokens);
  for (int64_t i = 0; i < c.layers; ++i) {
    const Layer layer = model.layer(i);
    const auto add = [&](const char* weight, const Tensor& input) {
      add_squares(sums, fmt::format("blk.{}.{}.weight", i, weight), input);
    };
    Tensor normed = rms_norm(ctx, x, layer.attn_norm, c.norm_eps);
    for (const char* weight : {"attn_q", "attn_k", "attn_v"}) add(weight, normed);
    const Tensor q = rope(ctx, linear(ctx, normed, layer.q), batch.positions, table, c.heads);
    const Tensor k = rope(ctx, linear(ctx, normed, layer.k), batch.positions, table, c.kv_heads);
    const Tensor v = linear(ctx, normed, layer.v);
    const Tensor mixed =
        attention(ctx, q, k, v, {.batch = 1, .query = c.heads, .kv = c.kv_heads, .width = c.head_dim});
    add("attn_output", mixed);
    x = linear(ctx, mixed, layer.attn_output, x);
    normed = rms_norm(ctx, x, layer.ffn_norm, c.norm_eps);
    for (const char* weight : {"ffn_gate", "ffn_up"}) add(weight, normed);
    const Tensor gated = swiglu(ctx, linear(ctx, normed, layer.gate), linear(ctx, normed, layer.up));
    add("ffn_down", gated);
    x = linear(ctx, gated, layer.down, x);
  }
  add_squares(sums, c.tied ? "token_embd.weight" : "output.weight",
              rms_norm(ctx, x, model.output_norm(), c.norm_eps));
}

// Both run the same products on the same backend, so only the sums differ: `rows` additions in double, of
// squares that are exact there, and the rounding to float.
void check_sums(const ImportanceMatrix& matrix, const Sums& expected, int64_t rows) {
  const double bound = static_cast<double>(rows + 1) * 0x1p-53 + 0x1p-24;
  CHECK(matrix.entries.size() == expected.size());
  for (const auto& [name, sums] : expected) {
    CAPTURE(name);
    REQUIRE(matrix.entries.contains(name));
    const ImportanceMatrix::Entry& entry = matrix.entries.at(name);
    CHECK(entry.count == rows);
    REQUIRE(entry.sums.size() == sums.size());
    for (size_t k = 0; k < sums.size(); ++k)
      CHECK(std::fabs(entry.sums[k] - static_cast<double>(sums[k])) <= bound * static_cast<double>(sums[k]));
  }
}

bool same_entries(const ImportanceMatrix& a, const ImportanceMatrix& b) {
  return std::equal(a.entries.begin(), a.entries.end(), b.entries.begin(), b.entries.end(),
                    [](const auto& x, const auto& y) {
                      return x.first == y.first && x.second.count == y.second.count &&
                             test::same_bits(x.second.sums, y.second.sums);
                    });
}

}  // namespace

TEST_CASE("every entry is the sum of squares of what its weight is multiplied with") {
  test::for_each_backend([](Backend& backend) {
    const auto pool = BufferPool::make();
    Context ctx{backend, *pool};
    const Model dense = test::random_model(test::small_config(), 3, *pool);
    const Model tied = test::random_model(test::small_config(true), 4, *pool);
    const Model packed = quantised(test::random_model(rows_of_32(), 5, *pool), backend, *pool);
    for (const Model* model : {&dense, &tied, &packed}) {
      // The rest of the text after the last whole chunk is not used.
      const std::vector<int32_t> tokens = some_tokens(model->config, kChunks * kContext + kContext - 1);
      const ImportanceMatrix matrix = collect_importance(ctx, *model, tokens, kBos, {kContext, 0, true});
      Sums expected;
      for (int64_t chunk = 0; chunk < kChunks; ++chunk)
        add_chunk(expected, ctx, *model, std::span(tokens).subspan(chunk * kContext, kContext));
      check_sums(matrix, expected, kChunks * kContext);
      CHECK(matrix.chunks == kChunks);
      CHECK(matrix.chunk_size == kContext);
    }
  });
}

TEST_CASE("the head is left out unless it is asked for") {
  const auto backend = make_reference_backend();
  const auto pool = BufferPool::make();
  Context ctx{*backend, *pool};
  for (const bool tied : {false, true}) {
    const Model model = test::random_model(test::small_config(tied), 3, *pool);
    const std::vector<int32_t> tokens = some_tokens(model.config, kContext);
    const ImportanceMatrix without = collect_importance(ctx, model, tokens, kBos, {kContext});
    CHECK(without.entries.size() == static_cast<size_t>(7 * model.config.layers));
    for (const auto& [name, entry] : without.entries) CHECK(name.starts_with("blk."));
    ImportanceMatrix with = collect_importance(ctx, model, tokens, kBos, {kContext, 0, true});
    CHECK(with.entries.erase(tied ? "token_embd.weight" : "output.weight") == 1);
    CHECK(same_entries(with, without));
  }
}

TEST_CASE("any number of threads adds up to the same bits") {
  const auto pool = BufferPool::make();
  const Model model = test::random_model(test::small_config(), 3, *pool);
  const std::vector<int32_t> tokens = some_tokens(model.config, kChunks * kContext);
  std::vector<ImportanceMatrix> found;
  for (const int threads : {1, 2, 4}) {
    const auto backend = make_cpu_backend(threads);
    Context ctx{*backend, *pool};
    found.push_back(collect_importance(ctx, model, tokens, kBos, {kContext, 0, true}));
  }
  CHECK(same_entries(found[0], found[1]));
  CHECK(same_entries(found[0], found[2]));
}

TEST_CASE("a watched forward pass has the same bits as one that nobody watches") {
  test::for_each_backend([](Backend& backend) {
    const auto pool = BufferPool::make();
    const Model model = test::random_model(test::small_config(), 3, *pool);
    const std::vector<int32_t> tokens = some_tokens(model.config, kContext);
    ImportanceCollector collector(backend, model, true);
    const auto scores = [&](Backend& by) {
      Context ctx{by, *pool};
      TokenBatch batch = make_token_batch(1, kContext, *pool);
      std::copy(tokens.begin(), tokens.end(), batch.tokens.i32());
      return logits(ctx, model, forward(ctx, model, make_rope_table(model.config, kContext, *pool), batch));
    };
    const Tensor watched = scores(collector), plain = scores(backend);
    CHECK(test::same_bits(test::values_of(watched), test::values_of(plain)));
    CHECK(collector.matrix().entries.size() == static_cast<size_t>(7 * model.config.layers + 1));
    CHECK(collector.name() == backend.name());
    CHECK(collector.threads() == backend.threads());
  });
}

TEST_CASE("products by matmul_nt are watched like those by matmul_weight; other matrices are not") {
  const auto backend = make_reference_backend();
  const auto pool = BufferPool::make();
  const Model model = test::random_model(test::small_config(), 3, *pool);
  const Tensor& W = model.layer(0).q;
  const int64_t M = 5, N = W.shape()[0], K = W.shape()[1];
  test::Random random(2);
  const Tensor x = test::random_tensor(random, *pool, {M, K}), y(*pool, DType::F32, {M, N});
  ImportanceCollector by_nt(*backend, model, false), by_weight(*backend, model, false);
  by_nt.matmul_nt({M, N, K}, x.f32(), W.f32(), y.f32(), {});
  by_weight.matmul_weight({M, N, K}, x.f32(), {DType::F32, W.data()}, y.f32(), {});
  CHECK(same_entries(by_nt.matrix(), by_weight.matrix()));
  CHECK(by_nt.matrix().entries.at("blk.0.attn_q.weight").count == M);
  CHECK(by_nt.matrix().entries.at("blk.0.attn_k.weight").count == 0);
  const Tensor other = test::random_tensor(random, *pool, {N, K});
  by_nt.matmul_nt({M, N, K}, x.f32(), other.f32(), y.f32(), {});
  CHECK(same_entries(by_nt.matrix(), by_weight.matrix()));
}

TEST_CASE("the start of a chunk, fewer chunks, and an early end") {
  const auto backend = make_reference_backend();
  const auto pool = BufferPool::make();
  Context ctx{*backend, *pool};
  const Model model = test::random_model(test::small_config(), 3, *pool);
  std::vector<int32_t> tokens = some_tokens(model.config, kChunks * kContext);
  const ImportanceMatrix all = collect_importance(ctx, model, tokens, kBos, {kContext});

  const ImportanceMatrix two = collect_importance(ctx, model, tokens, kBos, {kContext, 2});
  CHECK(two.chunks == 2);
  CHECK(two.entries.at("blk.0.attn_q.weight").count == 2 * kContext);
  std::vector<int64_t> seen;
  const ImportanceMatrix stopped =
      collect_importance(ctx, model, tokens, kBos, {kContext}, [&](int64_t done, int64_t total) {
        CHECK(total == kChunks);
        seen.push_back(done);
        return done < 2;
      });
  CHECK(seen == std::vector<int64_t>{1, 2});
  CHECK(stopped.chunks == 2);
  CHECK(same_entries(stopped, two));
  CHECK_FALSE(same_entries(stopped, all));

  const ImportanceMatrix unmarked = collect_importance(ctx, model, tokens, -1, {kContext});
  CHECK_FALSE(same_entries(unmarked, all));
  for (int64_t chunk = 0; chunk < kChunks; ++chunk) tokens[static_cast<size_t>(chunk * kContext)] = kBos;
  CHECK(same_entries(collect_importance(ctx, model, tokens, -1, {kContext}), all));
}

TEST_CASE("a text without a whole chunk, and inputs that are not finite") {
  const auto backend = make_reference_backend();
  const auto pool = BufferPool::make();
  Context ctx{*backend, *pool};
  const Model model = test::random_model(test::small_config(), 3, *pool);
  const std::vector<int32_t> tokens = some_tokens(model.config, kContext);
  const auto collect = [&](int64_t context) {
    return message_of([&] { collect_importance(ctx, model, tokens, kBos, {context}); });
  };
  CHECK(contains(collect(kContext + 1), "9 tokens"));
  CHECK(collect(kContext).empty());
  model.layer(1).ffn_norm.f32()[3] = 1e30f;  // squares beyond the largest float
  CHECK(contains(collect(kContext), "blk.1.ffn_"));
}
