// AVX2 with FMA and F16C: Intel since Haswell, AMD since Zen.
#include "kernels/cpu/float_kernels-inl.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/quant_kernels-inl.h"

namespace gladius::cpu {

struct Avx2 {
  using Arch = xsimd::fma3<xsimd::avx2>;
  static constexpr int gemm_rows = 6, gemm_vectors = 2;  // 12 accumulators, 2 columns, 1 row of 16 registers
  static constexpr int in_place_rows = 6, in_place_vectors = 2;

  static GLADIUS_INLINE Vec<Avx2> fma(Vec<Avx2> x, Vec<Avx2> y, Vec<Avx2> z) { return xsimd::fma(x, y, z); }
};

const KernelTable& table_avx2() {
  static const KernelTable table{"avx2", make_float_kernels<Avx2>(), make_quant_kernels<Avx2>()};
  return table;
}

}  // namespace gladius::cpu
