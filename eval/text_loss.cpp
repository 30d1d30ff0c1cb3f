#include "eval/text_loss.h"

#include <algorithm>

#include "eval/row_scores.h"

namespace gladius {

TextLoss text_loss(Context& ctx, const Model& model, std::span<const int32_t> tokens, int32_t bos,
                   int64_t context, const std::function<bool(int64_t done, int64_t total)>& progress) {
  const int64_t n = static_cast<int64_t>(tokens.size()), rows = rows_at_once(model.config);
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
    for (int64_t first = 0; first < T; first += rows) {
      const int64_t last = std::min(T, first + rows);
      const ScoredRows scored = score_rows(ctx, logits(ctx, model, hidden.slice(first, last)));
      for (int64_t t = first; t < last; ++t)
        result.nats += scored.loss(t - first, tokens[static_cast<size_t>(begin + t)]);
    }
    result.targets += T;
    if (progress && !progress(begin + T, n)) break;
  }
  return result;
}

}  // namespace gladius
