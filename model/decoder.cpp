#include "model/decoder.h"

#include <algorithm>

namespace gladius {
namespace {

constexpr size_t kPiece = 512;  // tokens that go through the model at once

}  // namespace

Decoder::Decoder(Context& ctx, const Model& model, int64_t capacity)
    : ctx_(ctx),
      model_(model),
      rope_table_(make_rope_table(model.config, capacity, ctx.pool)),
      cache_(make_kv_cache(model.config, 1, capacity, ctx.pool)) {}

std::span<const float> Decoder::read(std::span<const int32_t> tokens, const std::atomic<bool>* cancel) {
  if (tokens.empty()) fail("there is no token to read");
  Tensor last;  // the last token's hidden state
  while (!tokens.empty()) {
    if (cancel && cancel->load()) return {};
    const auto T = static_cast<int64_t>(std::min(kPiece, tokens.size()));
    TokenBatch batch = make_token_batch(1, T, ctx_.pool);
    for (int64_t t = 0; t < T; ++t) {
      batch.tokens.i32()[t] = tokens[static_cast<size_t>(t)];
      batch.positions.i32()[t] = static_cast<int32_t>(cache_.length() + t);
    }
    last = forward(ctx_, model_, rope_table_, batch, &cache_).slice(T - 1, T);
    tokens = tokens.subspan(static_cast<size_t>(T));
  }
  logits_ = logits(ctx_, model_, last);
  return {logits_.f32(), static_cast<size_t>(vocab())};
}

void Decoder::truncate(int64_t length) {
  for (LayerKvCache& layer : cache_.layers) layer.length = std::min(layer.length, length);
}

size_t Decoder::bytes_per_token() const {
  size_t bytes = 0;
  for (const LayerKvCache& layer : cache_.layers) bytes += layer.k.bytes() + layer.v.bytes();
  return bytes / static_cast<size_t>(capacity());
}

}  // namespace gladius
