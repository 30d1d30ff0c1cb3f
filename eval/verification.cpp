#include "eval/verification.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/random.h"
#include "eval/comparison.h"
#include "eval/row_scores.h"
#include "eval/tensor_errors.h"

namespace gladius {
namespace {

constexpr size_t kNamed = 8;  // tensors that a message lists

// The hidden states of one sequence after the last norm, [T, C].
Tensor hidden_states(Context& ctx, const Model& model, std::span<const int32_t> tokens) {
  const auto T = static_cast<int64_t>(tokens.size());
  TokenBatch batch = make_token_batch(1, T, ctx.pool);
  std::copy(tokens.begin(), tokens.end(), batch.tokens.i32());
  return forward(ctx, model, make_rope_table(model.config, T, ctx.pool), batch);
}

struct Squares {
  double difference = 0, largest = 0;
  void add(int64_t n, const float* x, const float* y) {
    for (int64_t i = 0; i < n; ++i) {
      const double d = static_cast<double>(y[i]) - static_cast<double>(x[i]);
      difference += d * d;
      largest = std::max(largest, std::fabs(d));
    }
  }
};

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.bytes() == b.bytes() && std::memcmp(a.data(), b.data(), a.bytes()) == 0;
}

void check_finite(const ScoredRows& scored) {
  for (const RowScore& row : scored.rows)
    if (!std::isfinite(row.log_sum)) fail("the logits hold a NaN or an infinity");
}

// The model with its F32 and 16-bit weights in the form that `like` holds them in: by few rows, panels add
// products in another order. Quantised ones have the same bits in both.
Model in_form_of(Context& ctx, const Model& model, const Model& like) {
  Model result = model;
  const auto relay = [&](const Tensor& from, const Tensor& form, Tensor& to) {
    if (!form.panels() || from.panels() || dtype_info(form.dtype()).quantised) return;
    const size_t bytes = from.panels_bytes(ctx.backend);
    const auto memory =
        std::make_shared<Tensor>(ctx.pool, DType::F32, Shape{static_cast<int64_t>(bytes / sizeof(float))});
    to = from.in_panels(ctx.backend, memory->data(), memory);
  };
  for (size_t i = 0; i < model.weights.size(); ++i)
    relay(model.weights[i], like.weights[i], result.weights[i]);
  relay(model.embedding(), like.head_panels, result.head_panels);
  return result;
}

std::string weights_fault(const std::vector<WeightCheck>& faults) {
  std::string text;
  for (size_t i = 0; i < std::min(faults.size(), kNamed); ++i)
    text += fmt::format("{}{} {}", i ? "; " : "", faults[i].name, faults[i].fault);
  if (faults.size() > kNamed) text += fmt::format("; and {} more tensors", faults.size() - kNamed);
  return text;
}

std::string layer_text(int64_t layer, int64_t layers) {
  if (layer == layers) return "the last norm or the head";
  return layer < 0 ? "the embedding" : fmt::format("layer {}", layer);
}

}  // namespace

LogitsDifference compare_logits(Context& ctx, const Model& base, const Model& tested,
                                std::span<const int32_t> tokens) {
  const Tensor a = hidden_states(ctx, base, tokens), b = hidden_states(ctx, tested, tokens);
  const auto T = static_cast<int64_t>(tokens.size()), at_once = rows_at_once(base.config);
  LogitsDifference result;
  Squares squares;
  int64_t same_top = 0;
  for (int64_t first = 0; first < T; first += at_once) {
    const int64_t last = std::min(T, first + at_once);
    const ScoredRows x = score_rows(ctx, logits(ctx, base, a.slice(first, last)));
    const ScoredRows y = score_rows(ctx, logits(ctx, tested, b.slice(first, last)));
    check_finite(x), check_finite(y);
    result.same = result.same && same_bits(x.scores, y.scores);
    squares.add(x.scores.shape().elements(), x.scores.f32(), y.scores.f32());
    for (int64_t i = 0; i < last - first; ++i) {
      const auto row = static_cast<size_t>(i);
      const double kl = divergence(x, y, i);
      result.kl_mean += kl / static_cast<double>(T);
      result.kl_max = std::max(result.kl_max, kl);
      same_top += x.rows[row].top == y.rows[row].top;
    }
  }
  result.largest = squares.largest;
  result.rms = std::sqrt(squares.difference / static_cast<double>(T * base.config.vocab));
  result.same_top = static_cast<double>(same_top) / static_cast<double>(T);
  return result;
}

int64_t departing_layer(Context& ctx, const Model& base, const Model& tested,
                        std::span<const int32_t> tokens) {
  for (int64_t n = 0; n <= base.config.layers; ++n) {
    const Model a = first_layers(base, n);
    Model b = first_layers(tested, n);
    b.weights[1] = a.weights[1];  // the last norm stands behind what is compared
    if (!same_bits(hidden_states(ctx, a, tokens), hidden_states(ctx, b, tokens))) return n - 1;
  }
  return base.config.layers;
}

Verification verify(Context& ctx, const LoadedModel& base, const std::string& base_name,
                    const Written& written, const Conversion& conversion, std::span<const int32_t> tokens,
                    const WeightProgress& progress) {
  const Model &read = written.rows->model, &run = written.inference->model;
  check_same_architecture(base.model, base_name, read, written.name);
  check_same_vocab(base.vocab, base_name, written.rows->vocab, written.name);
  const Expected expected = expected_model(ctx, base.model, read, conversion, progress);
  Verification result;
  result.weights = check_weights(ctx, base.model, read, conversion.importance != nullptr, &expected);
  result.fault = weights_fault(faults_of(result.weights));
  const bool faulty = !result.fault.empty();  // its logits may be anything
  if (!faulty) result.logits = compare_logits(ctx, in_form_of(ctx, base.model, run), run, tokens);
  const Model same_form = in_form_of(ctx, expected.model, run);
  if (faulty || !compare_logits(ctx, same_form, run, tokens).same) {
    const int64_t layer = departing_layer(ctx, same_form, run, tokens);
    result.fault += fmt::format("{}the logits are other ones, from {} on", faulty ? "; " : "",
                                layer_text(layer, base.model.config.layers));
  }
  return result;
}

std::vector<int32_t> verification_tokens(const Config& config, int64_t count) {
  const Random random(1, stream_of("verification"));
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < std::min(count, config.context); ++i)
    tokens.push_back(
        static_cast<int32_t>(random.below(static_cast<uint64_t>(i), static_cast<uint64_t>(config.vocab))));
  return tokens;
}

}  // namespace gladius
