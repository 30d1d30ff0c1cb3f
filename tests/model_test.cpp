// The model: parameters, initialisation, rotation angles, and that reading a text in any pieces gives the
// same.
#include "model/model.h"

#include <functional>

#include "model/decoder.h"
#include "tests/golden_support.h"
#include "tests/train_support.h"

using namespace gladius;
using namespace gladius::test;

namespace {

struct Row {
  std::string gguf, hf;
  Shape shape;
};

// A batch of one sequence's tokens [begin, begin + n).
TokenBatch batch_of(BufferPool& pool, const std::vector<int32_t>& tokens, int64_t begin, int64_t n) {
  TokenBatch batch = make_token_batch(1, n, pool);
  for (int64_t t = 0; t < n; ++t) {
    batch.tokens.i32()[t] = tokens[static_cast<size_t>(begin + t)];
    batch.positions.i32()[t] = static_cast<int32_t>(begin + t);
  }
  return batch;
}

// Logits [T, V] of one sequence, read in pieces of these lengths with a cache; {} stands for one pass
// without cache.
std::vector<float> read_in_pieces(Context& ctx, const Model& model, const std::vector<int32_t>& tokens,
                                  const std::vector<int64_t>& pieces, DType kv_type = DType::F32) {
  const auto T = static_cast<int64_t>(tokens.size());
  const RopeTable table = make_rope_table(model.config, T, ctx.pool);
  if (pieces.empty()) {
    const Tensor scores = logits(ctx, model, forward(ctx, model, table, batch_of(ctx.pool, tokens, 0, T)));
    return {values_of(scores).begin(), values_of(scores).end()};
  }
  KvCache cache(model.config, kv_type, T, ctx.pool);
  KvSequence sequence;
  std::vector<float> result;
  for (const int64_t n : pieces) {
    REQUIRE(cache.reserve(sequence, n));
    const SequenceRows rows{0, n, sequence.length + n, sequence.blocks.data()};
    const Past past{cache, {&rows, 1}};
    const TokenBatch batch = batch_of(ctx.pool, tokens, sequence.length, n);
    const Tensor scores = logits(ctx, model, forward(ctx, model, table, batch, &past));
    result.insert(result.end(), values_of(scores).begin(), values_of(scores).end());
    sequence.length += n;
  }
  REQUIRE(sequence.length == T);
  return result;
}

// Loss and all gradients of one batch, as one array of floats.
std::vector<float> loss_and_gradients(Backend& backend, const Config& config, int64_t B, int64_t T) {
  const auto pool = BufferPool::make();
  const Model model = random_model(config, 3, *pool);
  Random random(4);
  Tape tape;
  Context ctx{backend, *pool, &tape};
  TokenBatch batch = make_token_batch(B, T, *pool);
  for (int64_t m = 0; m < B * T; ++m)
    batch.tokens.i32()[m] = static_cast<int32_t>(random.below(config.vocab));
  const Tensor targets = random_integers(random, *pool, B * T, config.vocab);
  const Tensor hidden = forward(ctx, model, make_rope_table(config, T, *pool), batch);
  const Tensor loss = cross_entropy(ctx, hidden, model.head(), targets, 1.0f / static_cast<float>(B * T));
  std::vector<float> result{loss.f32()[0]};
  tape.backward(*pool, loss);
  for (const Tensor& weight : model.weights)
    result.insert(result.end(), gradient_of(weight).begin(), gradient_of(weight).end());
  return result;
}

}  // namespace

TEST_CASE("the reference model has 124,668,672 parameters in 111 tensors") {
  const Config config = preset("gladius-125m");
  validate(config, "preset");
  CHECK(config.parameters() == 124668672);
  // 6 * (124,668,672 - 24,576,000 embedding - 25 norms of 768) + 6 * 12 layers * 768 * (T + 1)
  CHECK(training_flops(config, 256) == 600440832.0 + 14211072.0);
  const std::vector<ParamSpec> table = parameter_table(config);
  REQUIRE(table.size() == 111);

  std::vector<Row> rows = {{"token_embd.weight", "model.embed_tokens.weight", {32000, 768}},
                           {"output_norm.weight", "model.norm.weight", {768}},
                           {"output.weight", "lm_head.weight", {32000, 768}}};
  for (int n = 0; n < 12; ++n) {
    const std::string gguf = fmt::format("blk.{}.", n), hf = fmt::format("model.layers.{}.", n);
    rows.push_back({gguf + "attn_norm.weight", hf + "input_layernorm.weight", {768}});
    rows.push_back({gguf + "attn_q.weight", hf + "self_attn.q_proj.weight", {768, 768}});
    rows.push_back({gguf + "attn_k.weight", hf + "self_attn.k_proj.weight", {256, 768}});
    rows.push_back({gguf + "attn_v.weight", hf + "self_attn.v_proj.weight", {256, 768}});
    rows.push_back({gguf + "attn_output.weight", hf + "self_attn.o_proj.weight", {768, 768}});
    rows.push_back({gguf + "ffn_norm.weight", hf + "post_attention_layernorm.weight", {768}});
    rows.push_back({gguf + "ffn_gate.weight", hf + "mlp.gate_proj.weight", {2048, 768}});
    rows.push_back({gguf + "ffn_up.weight", hf + "mlp.up_proj.weight", {2048, 768}});
    rows.push_back({gguf + "ffn_down.weight", hf + "mlp.down_proj.weight", {768, 2048}});
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    CHECK(table[i].gguf_name == rows[i].gguf);
    CHECK(table[i].hf_name == rows[i].hf);
    CHECK(table[i].shape == rows[i].shape);
    const bool is_query = contains(table[i].gguf_name, "attn_q."),
               is_key = contains(table[i].gguf_name, "attn_k.");
    CHECK(table[i].hf_order == (is_query ? RowOrder::rope_query
                                : is_key ? RowOrder::rope_key
                                         : RowOrder::same));
  }
}

TEST_CASE("a tied model has no head of its own, and head_dim need not be hidden / heads") {
  const Config tied = small_config(true), untied = small_config(false);
  CHECK(untied.parameters() - tied.parameters() == 67 * 36);
  for (const ParamSpec& spec : parameter_table(tied)) {
    CHECK(spec.gguf_name != "output.weight");
    if (spec.gguf_name == "blk.1.attn_q.weight") CHECK(spec.shape == Shape{60, 36});
    if (spec.gguf_name == "blk.1.attn_v.weight") CHECK(spec.shape == Shape{20, 36});
    if (spec.gguf_name == "blk.1.attn_output.weight") CHECK(spec.shape == Shape{36, 60});
  }
  const auto pool = BufferPool::make();
  const Model model = blank_model(tied, *pool);
  CHECK(model.head().data() == model.embedding().data());
  CHECK(model.layer(1).down.shape() == Shape{36, 44});
  CHECK(model.layer(1).down.data() == model.weights.back().data());
  CHECK(model.layer(0).attn_norm.data() == model.weights[2].data());
}

TEST_CASE("configurations that cannot be are refused by name") {
  const auto refuses = [](const std::function<void(Config&)>& change, const std::string& part) {
    Config config = small_config();
    change(config);
    const std::string message = message_of([&] { validate(config, "some file"); });
    CAPTURE(message);
    CHECK(contains(message, "some file"));
    CHECK(contains(message, part));
  };
  validate(small_config(), "small");
  refuses([](Config& c) { c.vocab = 0; }, "vocabulary");
  refuses([](Config& c) { c.hidden = -4; }, "hidden");
  refuses([](Config& c) { c.intermediate = int64_t{1} << 40; }, "intermediate");
  refuses([](Config& c) { c.layers = 0; }, "layers");
  // Each would do by itself, but a row of attn_output would be longer than kernels can convert.
  refuses([](Config& c) { c.heads = c.kv_heads = c.head_dim = 4096; }, "heads times head width is 16777216");
  refuses([](Config& c) { c.kv_heads = 4; }, "6 heads");
  refuses([](Config& c) { c.kv_heads = 12; }, "key/value heads");
  refuses([](Config& c) { c.head_dim = 9; }, "odd");
  refuses([](Config& c) { c.context = 0; }, "context");
  refuses([](Config& c) { c.norm_eps = 0; }, "epsilon");
  refuses([](Config& c) { c.norm_eps = NAN; }, "epsilon");
  refuses([](Config& c) { c.rope_theta = INFINITY; }, "theta");
  refuses([](Config& c) { c.rope_divisors = {1, 1}; }, "2 RoPE divisors");
  refuses([](Config& c) { c.rope_divisors = {1, 1, 0, 1, 1}; }, "divisor 0");
  CHECK(contains(message_of([] { preset("gladius-7b"); }), "gladius-tiny"));
  for (const std::string& name : preset_names()) validate(preset(name), name);
}

TEST_CASE("Llama-3 RoPE scaling gives transformers' frequencies") {
  for (const nlohmann::json& entry : read_golden_json("rope_scaling")) {
    const RopeScaling scaling{entry["factor"], entry["low_freq_factor"], entry["high_freq_factor"],
                              entry["original_max_position_embeddings"]};
    const float theta = entry["rope_theta"];
    const int64_t D = entry["head_dim"];
    const std::vector<float> divisors = rope_scaling_divisors(scaling, theta, D);
    REQUIRE(divisors.size() == entry["frequencies"].size());
    std::array<int, 3> kinds{};
    for (size_t i = 0; i < divisors.size(); ++i) {
      CAPTURE(i);
      const double plain =
          std::pow(static_cast<double>(theta), -2.0 * static_cast<double>(i) / static_cast<double>(D));
      // transformers works in float32: the exponent's rounding is multiplied by ln(theta), then some
      // operations follow.
      const double error = (std::log(static_cast<double>(theta)) + 8) * unit_roundoff;
      // The blend's weight is (turns - low) / (high - low), with turns of that relative error.
      const double turns = plain * static_cast<double>(scaling.original_context) / (2 * 3.141592653589793);
      const double blend_error = 2 * error * (turns + scaling.low_freq_factor) /
                                 (scaling.high_freq_factor - scaling.low_freq_factor);
      const bool blended = divisors[i] != 1.0f && divisors[i] != scaling.factor;
      const double got = plain / static_cast<double>(divisors[i]);
      CHECK(std::fabs(got - entry["frequencies"][i].get<double>()) <=
            got * 2 * error + (blended ? plain * blend_error : 0));
      ++kinds[divisors[i] == 1.0f ? 0 : blended ? 1 : 2];
    }
    for (const int count : kinds) CHECK(count > 0);  // kept, blended and divided frequencies all occur
  }
}

TEST_CASE("the rotation table holds cosines and sines of position * theta^(-2i/D) / divisor") {
  Config config = small_config();
  config.rope_theta = 500;
  config.rope_divisors = {1, 2, 4, 8, 3};
  const auto pool = BufferPool::make();
  const RopeTable table = make_rope_table(config, 20, *pool);
  CHECK(table.cos.shape() == Shape{20, 5});
  for (int p = 0; p < 20; ++p) {
    for (int i = 0; i < 5; ++i) {
      const double angle = p * std::pow(500.0, -2.0 * i / 10) /
                           static_cast<double>(config.rope_divisors[static_cast<size_t>(i)]);
      CHECK(std::fabs(static_cast<double>(table.cos.f32()[p * 5 + i]) - std::cos(angle)) <= unit_roundoff);
      CHECK(std::fabs(static_cast<double>(table.sin.f32()[p * 5 + i]) - std::sin(angle)) <= unit_roundoff);
    }
  }
}

TEST_CASE("initial weights follow the documented distribution, and depend on seed and name alone") {
  Config config = preset("gladius-tiny");
  config.layers = 3;
  const auto pool = BufferPool::make();
  const Model model = new_model(config, 7, *pool);
  for (size_t i = 0; i < model.specs.size(); ++i) {
    const std::string& name = model.specs[i].gguf_name;
    CAPTURE(name);
    CHECK(model.weights[i].requires_grad());
    const auto values = values_of(model.weights[i]);
    if (contains(name, "norm")) {
      CHECK(std::all_of(values.begin(), values.end(), [](float v) { return v == 1.0f; }));
      continue;
    }
    const bool residual = contains(name, "attn_output") || contains(name, "ffn_down");
    const double sigma = residual ? 0.02 / std::sqrt(2.0 * 3) : 0.02;
    const auto n = static_cast<double>(values.size());
    double mean = 0, square = 0;
    for (const float v : values)
      mean += static_cast<double>(v) / n, square += static_cast<double>(v) * static_cast<double>(v) / n;
    CHECK(std::fabs(mean) < 6 * sigma / std::sqrt(n));
    CHECK(std::fabs(square - sigma * sigma) < 6 * sigma * sigma * std::sqrt(2 / n));
  }

  const Model again = new_model(config, 7, *pool), other_seed = new_model(config, 8, *pool);
  for (size_t i = 0; i < model.weights.size(); ++i) {
    CHECK(same_bits(values_of(model.weights[i]), values_of(again.weights[i])));
    if (model.specs[i].init != Init::ones)
      CHECK_FALSE(same_bits(values_of(model.weights[i]), values_of(other_seed.weights[i])));
    for (size_t j = 0; j < i; ++j)
      if (model.specs[i].init != Init::ones && model.specs[i].shape == model.specs[j].shape)
        CHECK_FALSE(same_bits(values_of(model.weights[i]), values_of(model.weights[j])));
  }
  Config more_tokens = config;  // a parameter's values do not depend on what is beside it
  more_tokens.vocab += 100;
  const Model bigger = new_model(more_tokens, 7, *pool);
  for (size_t i = 3; i < model.weights.size(); ++i)
    CHECK(same_bits(values_of(model.weights[i]), values_of(bigger.weights[i])));
}

TEST_CASE("a text read in any pieces, down to single tokens, gives the logits of one whole pass") {
  for_each_backend([](Backend& backend) {
    const auto pool = BufferPool::make();
    Context ctx{backend, *pool};
    for (const bool tied : {false, true}) {
      const Model model = random_model(small_config(tied), 11, *pool);
      Random random(12);
      const std::vector<int32_t> tokens = random_tokens(random, 21, model.config.vocab);
      const double bound = logits_bound(ctx, model, tokens);
      const std::vector<float> whole = read_in_pieces(ctx, model, tokens, {});
      CHECK(largest(whole) > 1e3 * bound);
      std::vector<std::vector<int64_t>> splits = {
          {21}, std::vector<int64_t>(21, 1), {20, 1}, {1, 20}, {7, 1, 1, 9, 3}};
      for (const std::vector<int64_t>& pieces : splits) {
        CAPTURE(pieces.size());
        CHECK(largest_difference(read_in_pieces(ctx, model, tokens, pieces), whole) <= bound);
      }
    }
  });
}

TEST_CASE("sequences of a batch do not see each other") {
  for_each_backend([](Backend& backend) {
    const auto pool = BufferPool::make();
    Context ctx{backend, *pool};
    const Model model = random_model(small_config(), 13, *pool);
    Random random(14);
    constexpr int64_t T = 12;
    const int64_t V = model.config.vocab;
    const std::array texts = {random_tokens(random, T, V), random_tokens(random, T, V)};
    TokenBatch batch = make_token_batch(2, T, *pool);
    for (int64_t m = 0; m < 2 * T; ++m)
      batch.tokens.i32()[m] = texts[static_cast<size_t>(m / T)][static_cast<size_t>(m % T)];
    const RopeTable table = make_rope_table(model.config, T, *pool);
    const Tensor scores = logits(ctx, model, forward(ctx, model, table, batch));
    for (size_t b = 0; b < 2; ++b) {
      const std::vector<float> alone = read_in_pieces(ctx, model, texts[b], {});
      const std::span<const float> mine = values_of(scores).subspan(b * alone.size(), alone.size());
      CHECK(largest_difference(mine, alone) <= logits_bound(ctx, model, texts[b]));
    }
  });
}

TEST_CASE("last rows that are wanted alone have the values that they have among all") {
  for_each_backend([](Backend& backend) {
    const auto pool = BufferPool::make();
    Context ctx{backend, *pool};
    const Model model = random_model(small_config(), 15, *pool);
    Random random(16);
    const std::vector<int32_t> tokens = random_tokens(random, 20, model.config.vocab);
    const RopeTable table = make_rope_table(model.config, 20, *pool);
    // 8 tokens behind 5 that were read before, and 7 of another sequence; then one more of each.
    const auto scores = [&](bool last_only) {
      KvCache cache(model.config, DType::F32, 2 * kv_block_tokens, *pool);
      KvSequence one, other;
      REQUIRE(cache.reserve(one, 14));
      REQUIRE(cache.reserve(other, 8));
      const SequenceRows before{0, 5, 5, one.blocks.data()};
      const Past nothing{cache, {&before, 1}, last_only};
      forward(ctx, model, table, batch_of(*pool, tokens, 0, 5), &nothing);
      TokenBatch batch = batch_of(*pool, tokens, 5, 15);
      for (int i = 0; i < 7; ++i) batch.positions.i32()[8 + i] = i;
      const std::array rows = {SequenceRows{0, 8, 13, one.blocks.data()},
                               SequenceRows{8, 7, 7, other.blocks.data()}};
      const Past past{cache, rows, last_only};
      const Tensor read = logits(ctx, model, forward(ctx, model, table, batch, &past));
      TokenBatch more = batch_of(*pool, tokens, 0, 2);
      more.positions.i32()[0] = 13, more.positions.i32()[1] = 7;
      const std::array next_rows = {SequenceRows{0, 1, 14, one.blocks.data()},
                                    SequenceRows{1, 1, 8, other.blocks.data()}};
      const Past longer{cache, next_rows, last_only};
      return std::array{read, logits(ctx, model, forward(ctx, model, table, more, &longer))};
    };
    const auto [all, all_next] = scores(false);
    const auto [last, last_next] = scores(true);
    const int64_t V = model.config.vocab;
    REQUIRE(all.shape() == Shape{15, V});
    REQUIRE(last.shape() == Shape{2, V});
    const double bound = logits_bound(ctx, model, tokens);
    CHECK(largest_difference(values_of(last.slice(0, 1)), values_of(all.slice(7, 8))) <= bound);
    CHECK(largest_difference(values_of(last.slice(1, 2)), values_of(all.slice(14, 15))) <= bound);
    CHECK(largest_difference(values_of(last_next), values_of(all_next)) <= bound);
  });
}

TEST_CASE("later tokens do not change earlier logits") {
  const auto pool = BufferPool::make();
  const auto backend = make_cpu_backend(1);
  Context ctx{*backend, *pool};
  const Model model = random_model(small_config(), 15, *pool);
  Random random(16);
  std::vector<int32_t> tokens = random_tokens(random, 10, model.config.vocab);
  const std::vector<float> before = read_in_pieces(ctx, model, tokens, {});
  tokens[6] = (tokens[6] + 1) % static_cast<int32_t>(model.config.vocab);
  const std::vector<float> after = read_in_pieces(ctx, model, tokens, {});
  const auto V = static_cast<size_t>(model.config.vocab);
  CHECK(same_bits(std::span(before).first(6 * V), std::span(after).first(6 * V)));
  for (size_t t = 6; t < 10; ++t)
    CHECK(largest_difference(std::span(before).subspan(t * V, V), std::span(after).subspan(t * V, V)) > 1e-3);
}

TEST_CASE("a full context is an error that changes nothing, and a decoder that forgets starts anew") {
  const auto pool = BufferPool::make();
  const auto backend = make_cpu_backend(1);
  Context ctx{*backend, *pool};
  const Model model = random_model(small_config(), 17, *pool);
  Decoder decoder(ctx, model, 4);
  const std::vector<int32_t> three = {1, 2, 3}, two = {2, 2};
  const auto read = [&](const std::vector<int32_t>& tokens) {
    const std::span<const float> scores = decoder.read(tokens);
    return std::vector<float>(scores.begin(), scores.end());
  };
  const std::vector<float> first = read(three);
  const std::string message = message_of([&] { decoder.read(two); });
  CHECK(contains(message, "2 more tokens"));
  CHECK(contains(message, "context of 4"));
  CHECK(contains(message, "holds 3"));
  CHECK(decoder.length() == 3);
  decoder.clear();
  CHECK(decoder.length() == 0);
  CHECK(same_bits(read(three), first));
  decoder.truncate(2);
  CHECK(largest_difference(read({3}), first) <= logits_bound(ctx, model, three));
}

TEST_CASE("losses and gradients are the same bits at 1, 2, 3 and 4 threads on every instruction set") {
  Config config = small_config();
  config.vocab = 517, config.hidden = 160, config.intermediate = 300, config.heads = 8, config.kv_heads = 4;
  config.head_dim = 24;
  if (small_tests()) config.layers = 1;
  const int64_t B = 3, T = small_tests() ? 20 : 75;
  for (const std::string& isa : runnable_isas()) {
    CAPTURE(isa);
    const std::vector<float> one = loss_and_gradients(*make_cpu_backend(1, isa), config, B, T);
    CHECK(std::isfinite(one[0]));
    for (const int threads : {2, 3, 4}) {
      CAPTURE(threads);
      CHECK(same_bits(loss_and_gradients(*make_cpu_backend(threads, isa), config, B, T), one));
    }
  }
}
