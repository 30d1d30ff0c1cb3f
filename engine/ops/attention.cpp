#include <cmath>

#include "engine/ops.h"

namespace gladius {
namespace {

// Copies the new tokens' rows of each sequence behind those that the cache holds.
void append(Context& ctx, int64_t B, int64_t T, const Tensor& rows, int64_t length, const Tensor& cache) {
  const int64_t capacity = cache.shape()[1], width = cache.shape()[2];
  for (int64_t b = 0; b < B; ++b) {
    ctx.backend.copy(T * width, rows.f32() + b * T * width, cache.f32() + (b * capacity + length) * width);
  }
}

}  // namespace

Tensor attention(Context& ctx, const Tensor& q, const Tensor& k, const Tensor& v, const AttentionHeads& heads,
                 KvCache* cache) {
  const auto [B, H, G, D] = heads;
  const int64_t rows = q.shape().rows(), T = rows / B;
  if (rows % B != 0 || H % G != 0 || q.shape() != Shape{rows, H * D} || k.shape() != Shape{rows, G * D} ||
      v.shape() != k.shape()) {
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
    const int64_t capacity = cache->k.shape()[1];
    if (cache->length + T > capacity) {
      fail("attention: {} more tokens do not fit a context of {} that holds {}", T, capacity, cache->length);
    }
    append(ctx, B, T, k, cache->length, cache->k);
    append(ctx, B, T, v, cache->length, cache->v);
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
    ctx.tape->record([&backend = ctx.backend, &pool = ctx.pool, dims, q, k, v, o, lse] {
      backend.attention_backward(dims, q.f32(), k.f32(), v.f32(), o.f32(), lse.f32(), o.grad(),
                                 q.sole_grad_target(pool), k.sole_grad_target(pool),
                                 v.sole_grad_target(pool));
    });
  }
  return o;
}

}  // namespace gladius
