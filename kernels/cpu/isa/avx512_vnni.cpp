// AVX-512 with VNNI, dot products of bytes: Intel since Cascade Lake and Ice Lake, AMD since Zen 4.
#include "kernels/cpu/isa/avx512.h"

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/quant_kernels-inl.h"

namespace gladius::cpu {

struct Avx512Vnni : Avx512Base<Avx512Vnni> {};

const KernelTable& table_avx512_vnni() {
  static const KernelTable table{"avx512_vnni", table_avx512().f, make_quant_kernels<Avx512Vnni>()};
  return table;
}

}  // namespace gladius::cpu
