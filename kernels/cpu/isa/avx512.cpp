// AVX-512 F, CD, DQ, BW and VL: Intel servers since Skylake, AMD since Zen 4.
#include "kernels/cpu/isa/avx512.h"

#include "kernels/cpu/float_kernels-inl.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/quant_kernels-inl.h"

namespace gladius::cpu {

struct Avx512 : Avx512Base<Avx512> {};

const KernelTable& table_avx512() {
  static const KernelTable table{"avx512", make_float_kernels<Avx512>(), make_quant_kernels<Avx512>()};
  return table;
}

}  // namespace gladius::cpu
