// Every 64-bit Arm CPU.
#include "kernels/cpu/isa/neon.h"

#include "kernels/cpu/float_kernels-inl.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/quant_kernels-inl.h"

namespace gladius::cpu {

struct Neon : NeonBase<Neon> {};

const KernelTable& table_neon() {
  static const KernelTable table{"neon", make_float_kernels<Neon>(), make_quant_kernels<Neon>()};
  return table;
}

}  // namespace gladius::cpu
