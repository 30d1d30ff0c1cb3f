// Every 64-bit Arm CPU.
#include "kernels/cpu/float_kernels-inl.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/quant_kernels-inl.h"

namespace gladius::cpu {

struct Neon {
  using Arch = xsimd::neon64;
  static constexpr int gemm_rows = 12, gemm_vectors = 2;  // 24 accumulators, 2 columns, rows: of 32 registers

  static GLADIUS_INLINE Vec<Neon> fma(Vec<Neon> x, Vec<Neon> y, Vec<Neon> z) { return xsimd::fma(x, y, z); }
};

const KernelTable& table_neon() {
  static const KernelTable table{"neon", make_float_kernels<Neon>(), make_quant_kernels<Neon>()};
  return table;
}

}  // namespace gladius::cpu
