// What the AVX-512 instruction sets share: their register tile, and the fused multiply-add and masked access
// that xsimd 8.1 lacks.
#pragma once

#include <immintrin.h>

#include "kernels/cpu/simd.h"

namespace gladius::cpu {

// Self is the instruction set's own type, so that no two of them share a symbol.
template <class Self>
struct Avx512Base {
  using Arch = xsimd::avx512bw;
  static constexpr int registers = 32;
  static constexpr int gemm_rows = 14, gemm_vectors = 2;  // 28 accumulators, 2 columns, 1 row of 32 registers
  static constexpr int in_place_rows = 9, in_place_vectors = 3;  // 27, 3 and 1
  static constexpr int rows_k = 768;

  static GLADIUS_INLINE Vec<Avx512Base> fma(Vec<Avx512Base> x, Vec<Avx512Base> y, Vec<Avx512Base> z) {
    return _mm512_fmadd_ps(x, y, z);
  }
  static GLADIUS_INLINE Vec<Avx512Base> accumulate(Vec<Avx512Base> x, Vec<Avx512Base> y,
                                                   Vec<Avx512Base> sum) {
    __m512 in_place = sum;
    __asm__("vfmadd231ps %2, %1, %0"
            : "+v"(in_place)
            : "v"(static_cast<__m512>(x)), "v"(static_cast<__m512>(y)));
    return in_place;
  }

  static GLADIUS_INLINE Vec<Avx512Base> load_masked(const float* x, int64_t n, Vec<Avx512Base> rest) {
    return _mm512_mask_loadu_ps(rest, first(n), x);
  }
  static GLADIUS_INLINE void store_masked(float* y, Vec<Avx512Base> v, int64_t n) {
    _mm512_mask_storeu_ps(y, first(n), v);
  }

 private:
  static GLADIUS_INLINE __mmask16 first(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }
};

}  // namespace gladius::cpu
