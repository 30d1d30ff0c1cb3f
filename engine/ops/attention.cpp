#include <cmath>
#include <vector>

#include "engine/ops.h"

namespace gladius {
namespace {

// q [any rows, heads * width] and k, v [kv_rows, heads * width].
void check_heads(std::string_view operation, const Tensor& q, const Tensor& k, const Tensor& v,
                 const AttentionHeads& heads, int64_t kv_rows) {
  const auto [B, H, G, D] = heads;
  const int64_t rows = q.shape().rows();
  if (B <= 0 || H <= 0 || G <= 0 || D <= 0 || rows % B != 0 || H % G != 0 ||
      q.shape() != Shape{rows, H * D} || k.shape() != Shape{kv_rows, G * D} || v.shape() != k.shape()) {
    fail("{}: q {}, k {}, v {} do not fit {} sequences, {} heads, {} key/value heads of {}", operation,
         q.shape().text(), k.shape().text(), v.shape().text(), B, H, G, D);
  }
}

float score_scale(int64_t D) { return 1.0f / std::sqrt(static_cast<float>(D)); }

}  // namespace

Tensor attention(Context& ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                 const AttentionHeads& heads) {
  const int64_t rows = q.shape().rows();
  check_heads("attention", q, k, v, heads, rows);
  const auto [B, H, G, D] = heads;
  const int64_t T = rows / B;
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
  const int64_t rows = k.shape().rows(), queries = q.shape().rows();
  check_heads("cached_attention", q, k, v, {1, heads.query, heads.kv, heads.width}, rows);
  const auto [B, H, G, D] = heads;
  if (ctx.records(q, k, v)) fail("cached_attention: a key/value cache cannot be trained through");
  const int64_t blocks = cache.k.shape().rank() == 4 ? cache.k.shape()[0] : 0;
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
  const bool last_only = queries != rows;
  if (next_row != rows || (last_only && queries != static_cast<int64_t>(sequences.size()))) {
    fail("cached_attention: {} sequences of {} rows do not fit q {}, k {}", sequences.size(), next_row,
         q.shape().text(), k.shape().text());
  }
  Tensor o = ctx.empty({queries, H * D});
  const CachedAttentionDims dims{H, G, D, score_scale(D)};
  const KvCacheView view{dtype, cache.k.data(), cache.v.data()};
  ctx.backend.append_to_cache(dims, sequences, k.f32(), v.f32(), view);
  std::vector<SequenceRows> last_rows;
  if (last_only)
    for (const SequenceRows& s : sequences)
      last_rows.push_back({static_cast<int64_t>(last_rows.size()), 1, s.length, s.blocks});
  ctx.backend.cached_attention(dims, last_only ? std::span<const SequenceRows>(last_rows) : sequences,
                               q.f32(), view, o.f32());
  return o;
}

}  // namespace gladius
