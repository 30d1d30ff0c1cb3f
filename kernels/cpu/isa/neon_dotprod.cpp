// Arm with dot products of bytes: since Cortex-A55/A75, Apple A11.
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/quant_kernels-inl.h"

namespace gladius::cpu {

struct NeonDotprod {
  using Arch = xsimd::neon64;
  static constexpr int gemm_rows = 12, gemm_vectors = 2;

  static GLADIUS_INLINE Vec<NeonDotprod> fma(Vec<NeonDotprod> x, Vec<NeonDotprod> y, Vec<NeonDotprod> z) {
    return xsimd::fma(x, y, z);
  }
};

const KernelTable& table_neon_dotprod() {
  static const KernelTable table{"neon_dotprod", table_neon().f, make_quant_kernels<NeonDotprod>()};
  return table;
}

}  // namespace gladius::cpu
