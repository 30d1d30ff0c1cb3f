// Every x86-64 CPU. There is no fused multiply-add: Sse2::fma rounds twice.
#include "kernels/cpu/float_kernels-inl.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/quant_kernels-inl.h"

namespace gladius::cpu {

struct Sse2 {
  using Arch = xsimd::sse2;
  static constexpr int registers = 16;
  static constexpr int gemm_rows = 4,
                       gemm_vectors = 2;  // 8 accumulators, 2 columns, 1 row and a product of 16 registers
  static constexpr int in_place_rows = 4, in_place_vectors = 2;
  static constexpr int rows_k = 384;

  static GLADIUS_INLINE Vec<Sse2> fma(Vec<Sse2> x, Vec<Sse2> y, Vec<Sse2> z) { return xsimd::fma(x, y, z); }
};

const KernelTable& table_sse2() {
  static const KernelTable table{"sse2", make_float_kernels<Sse2>(), make_quant_kernels<Sse2>()};
  return table;
}

}  // namespace gladius::cpu
