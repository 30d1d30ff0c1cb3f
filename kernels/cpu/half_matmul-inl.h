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
  static constexpr int R = 4;  // weight rows at once, widened a chunk at a time
  static constexpr int A =
      Isa::gemm_rows * Isa::gemm_vectors >= 16 ? 4 : 2;  // activations at once: R * A sums in registers

  // Adds to sums[m][r] the products of `elements` elements (a multiple of L) of R weight rows and M
  // activations.
  template <int M>
  static GLADIUS_INLINE void add_chunk(const float (*w)[kChunk], const float* const* y, int64_t k,
                                       int64_t elements, float (*sums)[R][L]) {
    V s[M][R];
    for (int m = 0; m < M; ++m)
      for (int r = 0; r < R; ++r) s[m][r] = load<Isa>(sums[m][r]);
    for (int64_t i = 0; i < elements; i += L) {
      V x[M];
      for (int m = 0; m < M; ++m) x[m] = load<Isa>(y[m] + k + i);
      for (int r = 0; r < R; ++r) {
        const V wr = load<Isa>(w[r] + i);
        for (int m = 0; m < M; ++m) s[m][r] = Isa::fma(wr, x[m], s[m][r]);
      }
    }
    for (int m = 0; m < M; ++m)
      for (int r = 0; r < R; ++r) store<Isa>(sums[m][r], s[m][r]);
  }

  // widen(n, halves, floats) converts n elements.
  template <class Widen>
  static GLADIUS_INLINE void run(const TileProduct& t, Widen widen) {
    alignas(64) float w[R][kChunk];
    alignas(64) float sums[max_half_activations][R][L];
    const float* y[max_half_activations];
    for (int64_t m = 0; m < t.a_rows; ++m) y[m] = reinterpret_cast<const float*>(t.a + m * t.a_stride);
    for (int64_t n = 0; n < t.w_rows; n += R) {
      const int64_t rows = t.w_rows - n < R ? t.w_rows - n : R;
      std::memset(sums, 0, sizeof(sums));
      std::memset(w, 0, sizeof(w));
      for (int64_t k = 0; k < t.K; k += kChunk) {
        const int64_t elements = t.K - k < kChunk ? t.K - k : kChunk;
        const int64_t padded = (elements + L - 1) / L * L;
        for (int64_t r = 0; r < rows; ++r) {
          widen(elements, reinterpret_cast<const uint16_t*>(t.w + (n + r) * t.w_stride) + k, w[r]);
          for (int64_t i = elements; i < padded; ++i) w[r][i] = 0;
        }
        int64_t m = 0;
        for (; m + A <= t.a_rows; m += A) add_chunk<A>(w, y + m, k, padded, sums + m);
        for (; m < t.a_rows; ++m) add_chunk<1>(w, y + m, k, padded, sums + m);
      }
      for (int64_t m = 0; m < t.a_rows; ++m) {
        float totals[R];
        for (int r = 0; r < R; ++r) totals[r] = reduce_add<Isa>(load<Isa>(sums[m][r]));
        store_sums<Isa>(t, m, n, rows, totals);
      }
    }
  }

  static void run_f16(const TileProduct& t) {
    run(t, [](int64_t n, const uint16_t* x, float* y) { QuantRows<Isa>::from_f16(n, x, y); });
  }
  static void run_bf16(const TileProduct& t) {
    run(t, [](int64_t n, const uint16_t* x, float* y) { QuantRows<Isa>::from_bf16(n, x, y); });
  }
};

}  // namespace gladius::cpu
