// One token's way through the model, top to bottom. Letters as in kernels/backend.h: B sequences of T tokens,
// M = B*T rows, C hidden width, H query heads and G key/value heads of width D, F intermediate width, V
// vocabulary. Each operation's backward step stands beside its forward step in engine/ops/.
#include "model/model.h"

namespace gladius {

Tensor forward(Context& ctx, const Model& model, const RopeTable& rope_table, const TokenBatch& batch,
               KvCache* cache) {
  const Config& c = model.config;
  const AttentionHeads heads{.batch = batch.B, .query = c.heads, .kv = c.kv_heads, .width = c.head_dim};

  Tensor x = embedding(ctx, model.embedding(), batch.tokens);  // [M, C] the residual stream

  for (int64_t index = 0; index < c.layers; ++index) {
    const Layer layer = model.layer(index);

    // Attention: every token gathers from the tokens before it.
    Tensor normed = rms_norm(ctx, x, layer.attn_norm, c.norm_eps);                                // [M, C]
    Tensor q = rope(ctx, linear(ctx, normed, layer.q), batch.positions, rope_table, c.heads);     // [M, H*D]
    Tensor k = rope(ctx, linear(ctx, normed, layer.k), batch.positions, rope_table, c.kv_heads);  // [M, G*D]
    Tensor v = linear(ctx, normed, layer.v);                                                      // [M, G*D]
    LayerKvCache* past = cache ? &cache->layers[static_cast<size_t>(index)] : nullptr;
    Tensor mixed = attention(ctx, q, k, v, heads, past);
    x = linear(ctx, mixed, layer.attn_output, x);  // [M, C] + residual

    // Feed-forward: every token by itself.
    normed = rms_norm(ctx, x, layer.ffn_norm, c.norm_eps);  // [M, C]
    Tensor gate = linear(ctx, normed, layer.gate);          // [M, F]
    Tensor up = linear(ctx, normed, layer.up);              // [M, F]
    x = linear(ctx, swiglu(ctx, gate, up), layer.down, x);  // [M, C] + residual
  }
  return rms_norm(ctx, x, model.output_norm(), c.norm_eps);  // [M, C]
}

Tensor logits(Context& ctx, const Model& model, const Tensor& hidden) {
  return linear(ctx, hidden, model.head());  // [M, V]
}

}  // namespace gladius
