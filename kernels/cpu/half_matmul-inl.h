// Products with F16 and BF16 weights: halves are widened exactly, products are added in float32, lane by lane
// along a row.
#pragma once

#include <cstdint>

#include "kernels/cpu/quant_matmul-inl.h"

namespace gladius::cpu {

template <class Isa>
struct HalfProduct {
  using V = Vec<Isa>;
  static constexpr int64_t L = lanes<Isa>;
  static constexpr int R = 4;  // weight rows at once
  static constexpr int A =
      Isa::gemm_rows * Isa::gemm_vectors >= 16 ? 4 : 2;  // activations at once: R * A sums in registers

  // R (or fewer) weight rows from n on and M activations from m on. widen(x) makes floats of a vector of
  // halves.
  template <int M, class Widen>
  static GLADIUS_INLINE void block(const TileProduct& t, int64_t n, int64_t rows, int64_t m, Widen widen) {
    const uint16_t* w[R];
    for (int r = 0; r < R; ++r)
      w[r] = reinterpret_cast<const uint16_t*>(t.w + (n + (r < rows ? r : 0)) * t.w_stride);
    const float* y[M];
    for (int i = 0; i < M; ++i) y[i] = reinterpret_cast<const float*>(t.a + (m + i) * t.a_stride);
    V s[M][R];
#pragma GCC unroll 4
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) s[i][r] = V(0.0f);
    const auto add = [&](int64_t k, auto fetch) __attribute__((always_inline)) {
      V x[M];
#pragma GCC unroll 4
      for (int i = 0; i < M; ++i) x[i] = load<Isa>(y[i] + k);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const V wr = fetch(w[r] + k);
#pragma GCC unroll 4
        for (int i = 0; i < M; ++i) s[i][r] = Isa::fma(wr, x[i], s[i][r]);
      }
    };
    const auto whole = [&](const uint16_t* from) __attribute__((always_inline)) { return V(widen(from)); };
    constexpr int64_t line = 32;  // halves
    int64_t k = 0;
    for (; k + line <= t.K; k += line) {
      // The rows that come next follow in memory.
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r)
        __builtin_prefetch(reinterpret_cast<const std::byte*>(w[r] + k) + R * t.w_stride);
#pragma GCC unroll 8
      for (int64_t i = 0; i < line; i += L) add(k + i, whole);
    }
    for (; k + L <= t.K; k += L) add(k, whole);
    if (k < t.K)  // activations end in zeros
      add(k, [&](const uint16_t* from) __attribute__((always_inline)) {
        uint16_t rest[L] = {};
        for (int64_t i = 0; i < t.K - k; ++i) rest[i] = from[i];
        return V(widen(rest));
      });
    float totals[M][R];
#pragma GCC unroll 4
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) totals[i][r] = reduce_add<Isa>(s[i][r]);
    for (int i = 0; i < M; ++i) store_sums<Isa>(t, m + i, n, rows, totals[i]);
  }

  template <class Widen>
  static GLADIUS_INLINE void run(const TileProduct& t, Widen widen) {
    for (int64_t n = 0; n < t.w_rows; n += R) {
      const int64_t rows = t.w_rows - n < R ? t.w_rows - n : R;
      int64_t m = 0;
      for (; m + A <= t.a_rows; m += A) block<A>(t, n, rows, m, widen);
      for (; m < t.a_rows; ++m) block<1>(t, n, rows, m, widen);
    }
  }

  static void run_f16(const TileProduct& t) {
    run(t, [](const uint16_t* x) __attribute__((always_inline)) { return QuantIsa<Isa>::from_f16(x); });
  }
  static void run_bf16(const TileProduct& t) {
    run(t, [](const uint16_t* x) __attribute__((always_inline)) { return QuantIsa<Isa>::from_bf16(x); });
  }
};

}  // namespace gladius::cpu
