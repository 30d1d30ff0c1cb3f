// Arm with products of byte matrices: since Neoverse V1, Cortex-X2, Apple M2.
#include "kernels/cpu/isa/neon.h"

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/quant_kernels-inl.h"

namespace gladius::cpu {

struct NeonI8mm : NeonBase<NeonI8mm> {};

const KernelTable& table_neon_i8mm() {
  static const KernelTable table{"neon_i8mm", table_neon().f, make_quant_kernels<NeonI8mm>()};
  return table;
}

}  // namespace gladius::cpu
