// What the Arm instruction sets share: their register tile and the fused multiply-add.
#pragma once

#include "kernels/cpu/simd.h"

namespace gladius::cpu {

// Self is the instruction set's own type, so that no two of them share a symbol.
template <class Self>
struct NeonBase {
  using Arch = xsimd::neon64;
  static constexpr int registers = 32;
  // 20 accumulators, 2 columns, rows: of 32 registers. With 24 GCC 12 loads all rows at once and spills sums.
  static constexpr int gemm_rows = 10, gemm_vectors = 2;
  static constexpr int in_place_rows = 10, in_place_vectors = 2;
  static constexpr int rows_k = 384;

  static GLADIUS_INLINE Vec<NeonBase> fma(Vec<NeonBase> x, Vec<NeonBase> y, Vec<NeonBase> z) {
    return xsimd::fma(x, y, z);
  }
};

}  // namespace gladius::cpu
