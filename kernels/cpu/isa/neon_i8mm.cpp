// Arm with products of byte matrices: since Neoverse V1, Cortex-X2, Apple M2.
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/quant_kernels-inl.h"

namespace gladius::cpu {

struct NeonI8mm {
  using Arch = xsimd::neon64;
  static constexpr int gemm_rows = 12, gemm_vectors = 2;

  static GLADIUS_INLINE Vec<NeonI8mm> fma(Vec<NeonI8mm> x, Vec<NeonI8mm> y, Vec<NeonI8mm> z) {
    return xsimd::fma(x, y, z);
  }
};

const KernelTable& table_neon_i8mm() {
  static const KernelTable table{"neon_i8mm", table_neon().f, make_quant_kernels<NeonI8mm>()};
  return table;
}

}  // namespace gladius::cpu
