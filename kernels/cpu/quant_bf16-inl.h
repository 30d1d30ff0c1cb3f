// Products with BF16 weights on CPUs that multiply pairs of BF16: activations stay in 16 bits, nothing is
// widened. The instruction (vdpbf16ps) adds in float32, takes subnormal inputs for zero and rounds results to
// nearest even, subnormal ones to zero.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/quant_matmul-inl.h"

namespace gladius::cpu {

template <class Isa>
struct Bf16Product {
  static constexpr int R = 4;          // weight rows at once
  static constexpr int64_t step = 32;  // elements of a vector

  // BF16 values, then zeros up to a multiple of 64 bytes.
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
    __m512 s[M][R];
    for (int i = 0; i < M; ++i)
      for (int r = 0; r < R; ++r) s[i][r] = _mm512_setzero_ps();
    for (int64_t k = 0; k < t.K; k += step) {
      const __mmask32 mask = t.K - k < step ? (__mmask32{1} << (t.K - k)) - 1 : ~__mmask32{0};
      __m512i x[M];
      for (int i = 0; i < M; ++i) x[i] = _mm512_loadu_si512(y[i] + k);
      for (int r = 0; r < R; ++r) {
        const auto wr = reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi16(mask, w[r] + k));
        for (int i = 0; i < M; ++i) s[i][r] = _mm512_dpbf16_ps(s[i][r], wr, reinterpret_cast<__m512bh>(x[i]));
      }
    }
    for (int i = 0; i < M; ++i) {
      float totals[R];
      for (int r = 0; r < R; ++r) totals[r] = reduce_add<Isa>(Vec<Isa>(s[i][r]));
      store_sums<Isa>(t, m + i, n, rows, totals);
    }
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

template <class Isa>
void use_bf16_products(QuantKernels& kernels) {
  kernels.convert_bf16 = Bf16Product<Isa>::convert;
  kernels.matmul_bf16 = Bf16Product<Isa>::run;
}

}  // namespace gladius::cpu
