// Attention of rows that continue a sequence, over a cache in blocks. Equations in kernels/backend.h.
#pragma once

#include <cstddef>
#include <vector>

#include "kernels/reference/attention.h"
#include "kernels/reference/quantize.h"

namespace gladius::reference {

// One sequence's attention over keys and values that are rows kv_stride apart.
inline AttentionDims sequence_dims(const CachedAttentionDims& d, const SequenceRows& s, int64_t kv_stride) {
  return {.B = 1,
          .Tq = s.rows,
          .Tk = s.length,
          .H = d.H,
          .G = d.G,
          .D = d.D,
          .q_stride = d.H * d.D,
          .kv_stride = kv_stride,
          .kv_batch_stride = s.length * kv_stride,
          .scale = d.scale};
}

// Where the row of token p, key/value head g starts in the cache's keys or values.
inline int64_t cache_offset(const CachedAttentionDims& d, const SequenceRows& s, DType dtype, int64_t p,
                            int64_t g) {
  const int64_t block = s.blocks[p / kv_block_tokens], token = p % kv_block_tokens;
  return ((block * d.G + g) * kv_block_tokens + token) * row_bytes(dtype, d.D);
}

inline void append_to_cache(const CachedAttentionDims& d, const SequenceRows& s, DType dtype, const float* x,
                            void* cache) {
  for (int64_t i = 0; i < s.rows; ++i)
    for (int64_t g = 0; g < d.G; ++g)
      quantize_rows(dtype, 1, d.D, x + ((s.first_row + i) * d.G + g) * d.D, nullptr,
                    static_cast<std::byte*>(cache) + cache_offset(d, s, dtype, s.length - s.rows + i, g));
}

// [length, G*D] floats from the cache.
inline std::vector<float> read_cache(const CachedAttentionDims& d, const SequenceRows& s, DType dtype,
                                     const void* cache) {
  std::vector<float> rows(static_cast<size_t>(s.length * d.G * d.D));
  for (int64_t p = 0; p < s.length; ++p)
    for (int64_t g = 0; g < d.G; ++g)
      dequantize_rows(dtype, 1, d.D, static_cast<const std::byte*>(cache) + cache_offset(d, s, dtype, p, g),
                      rows.data() + (p * d.G + g) * d.D);
  return rows;
}

// One sequence.
inline void cached_attention(const CachedAttentionDims& d, const SequenceRows& s, const float* q,
                             KvCacheView cache, float* o) {
  const std::vector<float> keys = read_cache(d, s, cache.dtype, cache.k);
  const std::vector<float> values = read_cache(d, s, cache.dtype, cache.v);
  const AttentionDims dims = sequence_dims(d, s, d.G * d.D);
  attention<float>(dims, q + s.first_row * dims.q_stride, keys.data(), values.data(),
                   o + s.first_row * dims.q_stride, nullptr);
}

}  // namespace gladius::reference
