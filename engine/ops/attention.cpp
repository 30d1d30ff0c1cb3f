#include <cmath>

#include "engine/ops.h"

namespace gladius {
namespace {

// The rows of q and k, v [rows, heads * width].
void check_heads(std::string_view operation, const Tensor& q, const Tensor& k, const Tensor& v,
                 const AttentionHeads& heads) {
  const auto [B, H, G, D] = heads;
  const int64_t rows = q.shape().rows();
  if (B <= 0 || H <= 0 || G <= 0 || D <= 0 || rows % B != 0 || H % G != 0 ||
      q.shape() != Shape{rows, H * D} || k.shape() != Shape{rows, G * D} || v.shape() != k.shape()) {
    fail("{}: q {}, k {}, v {} do not fit {} sequences, {} heads, {} key/value heads of {}", operation,
         q.shape().text(), k.shape().text(), v.shape().text(), B, H, G, D);
  }
}

float score_scale(int64_t D) { return 1.0f / std::sqrt(static_cast<float>(D)); }

}  // namespace

Tensor attention(Context& ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                 const AttentionHeads& heads) {
  check_heads("attention", q, k, v, heads);
  const auto [B, H, G, D] = heads;
  const int64_t rows = q.shape().rows(), T = rows / B;
  const AttentionDims dims{.B = B,
                           .Tq = T,
                           .Tk = T,
                           .H = H,
                           .G = G,
                           .D = D,
                           .q_stride = H * D,
                           .kv_stride = G * D,
                           .kv_batch_stride = T * G * D,
                           .scale = score_scale(D)};
  Tensor o = ctx.empty({rows, H * D});
  const bool records = ctx.records(q, k, v);
  const Tensor lse = records ? ctx.empty({B, H, T}) : Tensor();
  ctx.backend.attention(dims, q.f32(), k.f32(), v.f32(), o.f32(), records ? lse.f32() : nullptr);

  if (records) {
    o.set_requires_grad(ctx.pool);
    ctx.tape->record(o, [&backend = ctx.backend, &pool = ctx.pool, dims, q, k, v, o, lse] {
      const SoleGradient dq(q, pool), dk(k, pool), dv(v, pool);
      backend.attention_backward(dims, {q.f32(), k.f32(), v.f32(), o.f32(), lse.f32()}, o.grad(),
                                 {dq.data(), dk.data(), dv.data()});
    });
  }
  return o;
}

Tensor cached_attention(Context& ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                        const AttentionHeads& heads, LayerKvCache& cache,
                        std::span<const SequenceRows> sequences) {
  check_heads("cached_attention", q, k, v, {1, heads.query, heads.kv, heads.width});
  const auto [B, H, G, D] = heads;
  if (ctx.records(q, k, v)) fail("cached_attention: a key/value cache cannot be trained through");
  const int64_t rows = q.shape().rows(), blocks = cache.k.shape().rank() == 4 ? cache.k.shape()[0] : 0;
  const DType dtype = cache.k.dtype();
  if (cache.k.shape() != Shape{blocks, G, kv_block_tokens, D} || cache.v.shape() != cache.k.shape() ||
      !is_kv_type(dtype) || cache.v.dtype() != dtype) {
    fail("cached_attention: a cache of keys {} {} and values {} {} does not fit {} key/value heads of {}",
         dtype_info(dtype).name, cache.k.shape().text(), dtype_info(cache.v.dtype()).name,
         cache.v.shape().text(), G, D);
  }
  int64_t next_row = 0;
  for (const SequenceRows& s : sequences) {
    if (s.first_row != next_row || s.rows <= 0 || s.rows > s.length) {
      fail("cached_attention: {} rows from {} on cannot be the last ones of {} tokens", s.rows, s.first_row,
           s.length);
    }
    next_row += s.rows;
    for (int64_t i = 0; i * kv_block_tokens < s.length; ++i)
      if (s.blocks[i] < 0 || s.blocks[i] >= blocks)
        fail("cached_attention: block {} is none of a cache of {}", s.blocks[i], blocks);
  }
  if (next_row != rows)
    fail("cached_attention: sequences of {} rows do not fit q {}", next_row, q.shape().text());
  Tensor o = ctx.empty({rows, H * D});
  ctx.backend.cached_attention({H, G, D, score_scale(D)}, sequences, q.f32(), k.f32(), v.f32(),
                               {dtype, cache.k.data(), cache.v.data()}, o.f32());
  return o;
}

}  // namespace gladius
