#include "eval/text_loss.h"

#include <algorithm>
#include <cmath>

namespace gladius {
namespace {

// ln sum exp of a row minus its target's score, in double.
double cross_entropy_of(const float* scores, int64_t V, int32_t target) {
  const float most = *std::max_element(scores, scores + V);
  double sum = 0;
  for (int64_t v = 0; v < V; ++v) sum += std::exp(static_cast<double>(scores[v]) - most);
  return std::log(sum) + most - static_cast<double>(scores[target]);
}

}  // namespace

TextLoss text_loss(Context& ctx, const Model& model, std::span<const int32_t> tokens, int32_t bos,
                   int64_t context, const std::function<bool(int64_t done, int64_t total)>& progress) {
  const int64_t V = model.config.vocab, n = static_cast<int64_t>(tokens.size());
  const int64_t rows_at_once =
      std::max<int64_t>(1, kMaxLogitsBytes / (V * static_cast<int64_t>(sizeof(float))));
  const RopeTable table = make_rope_table(model.config, context, ctx.pool);
  TextLoss result;
  for (int64_t begin = bos < 0 ? 1 : 0; begin < n; begin += context) {
    const int64_t T = std::min(context, n - begin);
    TokenBatch batch = make_token_batch(1, T, ctx.pool);
    for (int64_t t = 0; t < T; ++t) {  // input t predicts token begin + t
      const bool start = t == 0 && bos >= 0;
      batch.tokens.i32()[t] = start ? bos : tokens[static_cast<size_t>(begin + t - 1)];
    }
    const Tensor hidden = forward(ctx, model, table, batch);
    for (int64_t first = 0; first < T; first += rows_at_once) {
      const int64_t last = std::min(T, first + rows_at_once);
      const Tensor scores = logits(ctx, model, hidden.slice(first, last));
      for (int64_t t = first; t < last; ++t) {
        result.nats +=
            cross_entropy_of(scores.f32() + (t - first) * V, V, tokens[static_cast<size_t>(begin + t)]);
      }
    }
    result.targets += T;
    if (progress && !progress(begin + T, n)) break;
  }
  return result;
}

}  // namespace gladius
