#include "model/decoder.h"

#include <algorithm>

namespace gladius {
namespace {

constexpr size_t kPiece = 512;  // tokens that go through the model at once

}  // namespace

Decoder::Decoder(Context& ctx, const Model& model, int64_t capacity, DType kv_type)
    : ctx_(ctx),
      model_(model),
      capacity_(capacity),
      rope_table_(make_rope_table(model.config, capacity, ctx.pool)),
      cache_(model.config, kv_type, capacity, ctx.pool) {}

std::span<const float> Decoder::read(std::span<const int32_t> tokens, const std::atomic<bool>* cancel) {
  if (tokens.empty()) fail("there is no token to read");
  if (static_cast<int64_t>(tokens.size()) > capacity_ - length())
    fail("{} more tokens do not fit a context of {} that holds {}", tokens.size(), capacity_, length());
  Tensor last;  // the last token's hidden state
  while (!tokens.empty()) {
    if (cancel && cancel->load()) return {};
    const auto T = static_cast<int64_t>(std::min(kPiece, tokens.size()));
    cache_.reserve(sequence_, T);  // never refused: the cache is all this sequence's
    TokenBatch batch = make_token_batch(1, T, ctx_.pool);
    for (int64_t t = 0; t < T; ++t) {
      batch.tokens.i32()[t] = tokens[static_cast<size_t>(t)];
      batch.positions.i32()[t] = static_cast<int32_t>(length() + t);
    }
    const SequenceRows rows{0, T, length() + T, sequence_.blocks.data()};
    const Past past{cache_, {&rows, 1}, true};
    last = forward(ctx_, model_, rope_table_, batch, &past);
    sequence_.length += T;
    tokens = tokens.subspan(static_cast<size_t>(T));
  }
  logits_ = logits(ctx_, model_, last);
  return {logits_.f32(), static_cast<size_t>(vocab())};
}

}  // namespace gladius
