// Arm with dot products of bytes: since Cortex-A55/A75, Apple A11.
#include "kernels/cpu/isa/neon.h"

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/quant_kernels-inl.h"

namespace gladius::cpu {

struct NeonDotprod : NeonBase<NeonDotprod> {};

const KernelTable& table_neon_dotprod() {
  static const KernelTable table{"neon_dotprod", table_neon().f, make_quant_kernels<NeonDotprod>()};
  return table;
}

}  // namespace gladius::cpu
