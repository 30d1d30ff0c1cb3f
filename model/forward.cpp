// One token's way through the model, top to bottom. Letters as in kernels/backend.h: B sequences of T tokens,
// M = B*T rows, C hidden width, H query heads and G key/value heads of width D, F intermediate width, V
// vocabulary. Each operation's backward step stands beside its forward step in engine/ops/.
#include <vector>

#include "model/model.h"

namespace gladius {
namespace {

// What one half of a layer computes between the residual stream it reads and the product that it adds to it.
struct AttentionValues {
  Tensor normed;    // [M, C]
  Tensor q, mixed;  // [M, H*D], or as many rows as are wanted
  Tensor k, v;      // [M, G*D]
  std::array<Tensor, 5> all() const { return {normed, q, k, v, mixed}; }
};
struct FeedForwardValues {
  Tensor normed;    // [M, C]
  Tensor gate, up;  // [M, F]
  Tensor gated;     // [M, F]
  std::array<Tensor, 4> all() const { return {normed, gate, up, gated}; }
};

// What a layer remembers of the sequences that the batch's rows continue, if they do. `wanted` are the rows
// whose output the layer is asked for, where these are not all.
struct LayerPast {
  LayerKvCache* cache = nullptr;
  std::span<const SequenceRows> sequences;
  std::vector<int64_t> wanted;
};

LayerPast past_of_layer(const Past* past, int64_t index, const Config& c, int64_t rows) {
  if (!past) return {};
  LayerPast layer{&past->cache.layer(index), past->sequences, {}};
  const bool fewer = past->last_only && static_cast<int64_t>(past->sequences.size()) < rows;
  if (index + 1 == c.layers && fewer)
    for (const SequenceRows& s : past->sequences) layer.wanted.push_back(s.first_row + s.rows - 1);
  return layer;
}

Tensor positions_of(Context& ctx, const TokenBatch& batch, const std::vector<int64_t>& rows) {
  Tensor positions(ctx.pool, DType::I32, {static_cast<int64_t>(rows.size())});
  for (size_t i = 0; i < rows.size(); ++i) positions.i32()[i] = batch.positions.i32()[rows[i]];
  return positions;
}

// Attention: every token gathers from the tokens before it.
AttentionValues attend(Context& ctx, const Config& c, const Layer& layer, const RopeTable& rope_table,
                       const TokenBatch& batch, const Tensor& x, const LayerPast& past) {
  const AttentionHeads heads{.batch = batch.B, .query = c.heads, .kv = c.kv_heads, .width = c.head_dim};
  AttentionValues a;
  a.normed = rms_norm(ctx, x, layer.attn_norm, c.norm_eps);
  if (past.wanted.empty()) {
    const auto [q, k, v] = linears<3>(ctx, a.normed, {&layer.q, &layer.k, &layer.v});
    a.q = rope(ctx, q, batch.positions, rope_table, c.heads);
    a.k = k, a.v = v;
  } else {
    const auto [k, v] = linears<2>(ctx, a.normed, {&layer.k, &layer.v});
    const Tensor q = linear(ctx, take_rows(ctx, a.normed, past.wanted), layer.q);
    a.q = rope(ctx, q, positions_of(ctx, batch, past.wanted), rope_table, c.heads);
    a.k = k, a.v = v;
  }
  a.k = rope(ctx, a.k, batch.positions, rope_table, c.kv_heads);
  a.mixed = past.cache ? cached_attention(ctx, a.q, a.k, a.v, heads, *past.cache, past.sequences)
                       : attention(ctx, a.q, a.k, a.v, heads);
  return a;
}

// Feed-forward: every token by itself.
FeedForwardValues feed_forward(Context& ctx, const Config& c, const Layer& layer, const Tensor& x) {
  FeedForwardValues f;
  f.normed = rms_norm(ctx, x, layer.ffn_norm, c.norm_eps);
  const auto [gate, up] = linears<2>(ctx, f.normed, {&layer.gate, &layer.up});
  f.gate = gate;
  f.up = up;
  f.gated = swiglu(ctx, f.gate, f.up);
  return f;
}

// What the backward pass will compute anew (Context::recompute) of each half, whose input x stays.
void give_up(Context& ctx, const Model& model, int64_t index, const RopeTable& rope_table,
             const TokenBatch& batch, const Tensor& x, const AttentionValues& a) {
  const Config& c = model.config;
  if (index < ctx.recompute.layers) {
    ctx.compute_anew(a.all(), [=, &model](Context& again) {
      return attend(again, model.config, model.layer(index), rope_table, batch, x, {}).all();
    });
  } else if (ctx.recompute.elementwise) {
    ctx.compute_anew<1>({a.normed},
                        [x, weight = model.layer(index).attn_norm, eps = c.norm_eps](Context& again) {
                          return std::array{rms_norm(again, x, weight, eps)};
                        });
  }
}
void give_up(Context& ctx, const Model& model, int64_t index, const Tensor& x, const FeedForwardValues& f) {
  const Config& c = model.config;
  if (index < ctx.recompute.layers) {
    ctx.compute_anew(f.all(), [=, &model](Context& again) {
      return feed_forward(again, model.config, model.layer(index), x).all();
    });
  } else if (ctx.recompute.elementwise) {
    ctx.compute_anew<2>(
        {f.normed, f.gated},
        [x, gate = f.gate, up = f.up, weight = model.layer(index).ffn_norm, eps = c.norm_eps](
            Context& again) { return std::array{rms_norm(again, x, weight, eps), swiglu(again, gate, up)}; });
  }
}

}  // namespace

Tensor forward(Context& ctx, const Model& model, const RopeTable& rope_table, const TokenBatch& batch,
               const Past* past) {
  const Config& c = model.config;
  Tensor x = embedding(ctx, model.embedding(), batch.tokens);  // [M, C] the residual stream

  for (int64_t index = 0; index < c.layers; ++index) {
    const Layer layer = model.layer(index);
    const LayerPast layer_past = past_of_layer(past, index, c, x.shape().rows());
    Tensor before = x;
    {
      const AttentionValues a = attend(ctx, c, layer, rope_table, batch, x, layer_past);
      if (!layer_past.wanted.empty()) x = take_rows(ctx, x, layer_past.wanted);
      x = linear(ctx, a.mixed, layer.attn_output, x);  // + residual
      if (ctx.tape) give_up(ctx, model, index, rope_table, batch, before, a);
    }
    before = x;
    const FeedForwardValues f = feed_forward(ctx, c, layer, x);
    x = linear(ctx, f.gated, layer.down, x);  // + residual
    if (ctx.tape) give_up(ctx, model, index, before, f);
  }
  return rms_norm(ctx, x, model.output_norm(), c.norm_eps);
}

Tensor logits(Context& ctx, const Model& model, const Tensor& hidden) {
  return linear(ctx, hidden, model.head());  // [M, V]
}

}  // namespace gladius
