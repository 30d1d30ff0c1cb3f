#include <cmath>

#include "engine/ops.h"

namespace gladius {
namespace {

// Copies the new tokens' rows of each sequence behind those that the cache holds.
void append(Context& ctx, int64_t T, const Tensor& rows, int64_t length, const Tensor& cache) {
  const int64_t B = cache.shape()[0], capacity = cache.shape()[1], width = cache.shape()[2];
  for (int64_t b = 0; b < B; ++b) {
    ctx.backend.copy(T * width, rows.f32() + b * T * width, cache.f32() + (b * capacity + length) * width);
  }
}

}  // namespace

Tensor attention(Context& ctx, const Tensor& q, const Tensor& k, const Tensor& v, const AttentionHeads& heads,
                 LayerKvCache* cache) {
  const auto [B, H, G, D] = heads;
  const int64_t rows = q.shape().rows(), T = B > 0 ? rows / B : 0;
  if (B <= 0 || H <= 0 || G <= 0 || D <= 0 || rows != B * T || H % G != 0 ||
      q.shape() != Shape{rows, H * D} || k.shape() != Shape{rows, G * D} || v.shape() != k.shape()) {
    fail("attention: q {}, k {}, v {} do not fit {} sequences, {} heads, {} key/value heads of {}",
         q.shape().text(), k.shape().text(), v.shape().text(), B, H, G, D);
  }
  AttentionDims dims{.B = B,
                     .Tq = T,
                     .Tk = T,
                     .H = H,
                     .G = G,
                     .D = D,
                     .q_stride = H * D,
                     .kv_stride = G * D,
                     .kv_batch_stride = T * G * D,
                     .scale = 1.0f / std::sqrt(static_cast<float>(D))};
  Tensor o = ctx.empty({rows, H * D});

  if (cache) {
    if (ctx.records(q, k, v)) fail("attention: a key/value cache cannot be trained through");
    const int64_t capacity = cache->k.shape().rank() == 3 ? cache->k.shape()[1] : 0;
    if (cache->k.shape() != Shape{B, capacity, G * D} || cache->v.shape() != cache->k.shape()) {
      fail("attention: a cache of keys {} and values {} does not fit {} sequences, {} key/value heads of {}",
           cache->k.shape().text(), cache->v.shape().text(), B, G, D);
    }
    if (cache->length < 0 || cache->length > capacity - T) {
      fail("attention: {} more tokens do not fit a context of {} that holds {}", T, capacity, cache->length);
    }
    append(ctx, T, k, cache->length, cache->k);
    append(ctx, T, v, cache->length, cache->v);
    cache->length += T;
    dims.Tk = cache->length;
    dims.kv_batch_stride = capacity * G * D;
    ctx.backend.attention(dims, q.f32(), cache->k.f32(), cache->v.f32(), o.f32(), nullptr);
    return o;
  }

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

}  // namespace gladius
