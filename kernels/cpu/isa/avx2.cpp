// AVX2 with FMA and F16C: Intel since Haswell, AMD since Zen.
#include <immintrin.h>

#include "kernels/cpu/float_kernels-inl.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/quant_kernels-inl.h"

namespace gladius::cpu {

struct Avx2 {
  using Arch = xsimd::fma3<xsimd::avx2>;
  static constexpr int registers = 16;
  static constexpr int gemm_rows = 6, gemm_vectors = 2;  // 12 accumulators, 2 columns, 1 row of 16 registers
  static constexpr int in_place_rows = 6, in_place_vectors = 2;
  static constexpr int rows_k = 1024;

  static GLADIUS_INLINE Vec<Avx2> fma(Vec<Avx2> x, Vec<Avx2> y, Vec<Avx2> z) { return xsimd::fma(x, y, z); }
  static GLADIUS_INLINE Vec<Avx2> accumulate(Vec<Avx2> x, Vec<Avx2> y, Vec<Avx2> sum) {
    __m256 in_place = sum;
    __asm__("vfmadd231ps %2, %1, %0"
            : "+x"(in_place)
            : "x"(static_cast<__m256>(x)), "x"(static_cast<__m256>(y)));
    return in_place;
  }

  static GLADIUS_INLINE Vec<Avx2> load_masked(const float* x, int64_t n, Vec<Avx2> rest) {
    const __m256i mask = first(n);
    return _mm256_blendv_ps(rest, _mm256_maskload_ps(x, mask), _mm256_castsi256_ps(mask));
  }
  static GLADIUS_INLINE void store_masked(float* y, Vec<Avx2> v, int64_t n) {
    _mm256_maskstore_ps(y, first(n), v);
  }

 private:
  static GLADIUS_INLINE __m256i first(int64_t n) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane);
  }
};

const KernelTable& table_avx2() {
  static const KernelTable table{"avx2", make_float_kernels<Avx2>(), make_quant_kernels<Avx2>()};
  return table;
}

}  // namespace gladius::cpu
