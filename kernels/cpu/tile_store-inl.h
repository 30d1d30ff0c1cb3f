// How a tile of a product with a weight stores its results.
#pragma once

#include <cstdint>

#include "kernels/cpu/quant_kernels.h"
#include "kernels/cpu/simd.h"

namespace gladius::cpu {

// Stores sums[r] of a tile's activation m and weight rows n + r, with what the tile adds to them.
template <class Isa>
GLADIUS_INLINE void store_sums(const TileProduct& t, int64_t m, int64_t n, int64_t rows, const float* sums) {
  constexpr int64_t L = lanes<Isa>;
  float* out = t.out + m * t.ldo + n;
  const float* residual = t.residual ? t.residual + m * t.ldo + n : nullptr;
  int64_t r = 0;
  for (; r + L <= rows; r += L) {
    Vec<Isa> v = load<Isa>(sums + r);
    if (t.accumulate) v = v + load<Isa>(out + r);
    if (residual) v = v + load<Isa>(residual + r);
    store<Isa>(out + r, v);
  }
  for (; r < rows; ++r) {
    float v = sums[r];
    if (t.accumulate) v += out[r];
    if (residual) v += residual[r];
    out[r] = v;
  }
}

}  // namespace gladius::cpu
