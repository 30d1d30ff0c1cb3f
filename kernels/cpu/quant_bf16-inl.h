// Products with BF16 weights on CPUs that multiply pairs of BF16: activations stay in 16 bits, nothing is
// widened. Pairs is the instruction set's type of a vector of such pairs (isa/*_bf16.cpp), which says how
// their products are rounded:
//   load(x), load_first(x, n)   a vector of BF16 values, of the first n and zeros
//   multiply_add(a, b, sum)     sum + the products of two such vectors, a pair's in a lane
#pragma once

#include <cstdint>

#include "kernels/cpu/quant_matmul-inl.h"

namespace gladius::cpu {

template <class Isa, class Pairs>
struct Bf16Product {
  using V = Vec<Isa>;
  static constexpr int R = 4;                      // weight rows at once
  static constexpr int64_t step = 2 * lanes<Isa>;  // elements of a vector

  // BF16 values, then zeros up to a whole vector.
  static void convert(int64_t K, const float* x, std::byte* a) {
    auto* y = reinterpret_cast<uint16_t*>(a);
    for (int64_t i = 0; i < K; ++i) y[i] = f32_to_bf16(x[i]);
    for (int64_t i = K; i % step != 0; ++i) y[i] = 0;
  }

  // R (or fewer) weight rows from n on and M activations from m on.
  template <int M>
  static GLADIUS_INLINE void block(const TileProduct& t, int64_t n, int64_t rows, int64_t m) {
    const uint16_t* w[R];
    for (int r = 0; r < R; ++r)
      w[r] = reinterpret_cast<const uint16_t*>(t.w + (n + (r < rows ? r : 0)) * t.w_stride);
    const uint16_t* y[M];
    for (int i = 0; i < M; ++i) y[i] = reinterpret_cast<const uint16_t*>(t.a + (m + i) * t.a_stride);
    V s[M][R];
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) s[i][r] = V(0.0f);
    const auto add = [&](int64_t k, auto fetch) __attribute__((always_inline)) {
      V x[M];
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) x[i] = Pairs::load(y[i] + k);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const V wr = fetch(w[r] + k);
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i) s[i][r] = Pairs::multiply_add(wr, x[i], s[i][r]);
      }
    };
    int64_t k = 0;
    for (; k + step <= t.K; k += step)
      add(k, [&](const uint16_t* from) __attribute__((always_inline)) {
        // The rows that come next follow in memory.
        __builtin_prefetch(reinterpret_cast<const std::byte*>(from) + R * t.w_stride);
        return Pairs::load(from);
      });
    if (k < t.K) add(k, [&](const uint16_t* from) { return Pairs::load_first(from, t.K - k); });
    float totals[M][R];
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) totals[i][r] = reduce_add<Isa>(s[i][r]);
    for (int i = 0; i < M; ++i) store_sums<Isa>(t, m + i, n, rows, totals[i]);
  }

  static void run(const TileProduct& t) {
    for (int64_t n = 0; n < t.w_rows; n += R) {
      const int64_t rows = t.w_rows - n < R ? t.w_rows - n : R;
      int64_t m = 0;
      for (; m + 4 <= t.a_rows; m += 4) block<4>(t, n, rows, m);
      for (; m < t.a_rows; ++m) block<1>(t, n, rows, m);
    }
  }
};

template <class Isa, class Pairs>
void use_bf16_products(QuantKernels& kernels) {
  kernels.convert_bf16 = Bf16Product<Isa, Pairs>::convert;
  kernels.matmul_bf16 = Bf16Product<Isa, Pairs>::run;
}

}  // namespace gladius::cpu
