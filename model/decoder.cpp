#include "model/decoder.h"

#include <algorithm>

namespace gladius {

Decoder::Decoder(Context& ctx, const Model& model, int64_t capacity)
    : ctx_(ctx),
      model_(model),
      rope_table_(make_rope_table(model.config, capacity, ctx.pool)),
      cache_(make_kv_cache(model.config, 1, capacity, ctx.pool)) {}

std::span<const float> Decoder::read(std::span<const int32_t> tokens) {
  const auto T = static_cast<int64_t>(tokens.size());
  TokenBatch batch = make_token_batch(1, T, ctx_.pool);
  for (int64_t t = 0; t < T; ++t) {
    batch.tokens.i32()[t] = tokens[static_cast<size_t>(t)];
    batch.positions.i32()[t] = static_cast<int32_t>(length() + t);
  }
  const Tensor hidden = forward(ctx_, model_, rope_table_, batch, &cache_);
  logits_ = logits(ctx_, model_, hidden.slice(T - 1, T));
  return {logits_.f32(), static_cast<size_t>(vocab())};
}

void Decoder::truncate(int64_t length) {
  for (LayerKvCache& layer : cache_.layers) layer.length = std::min(layer.length, length);
}

}  // namespace gladius
