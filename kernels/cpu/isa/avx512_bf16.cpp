// AVX-512 with VNNI and BF16: Intel since Cooper Lake, AMD since Zen 4.
#include "kernels/cpu/isa/avx512.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/quant_bf16-inl.h"

namespace gladius::cpu {

struct Avx512Bf16 : Avx512Base<Avx512Bf16> {};

const KernelTable& table_avx512_bf16() {
  static const KernelTable table = [] {
    KernelTable t{"avx512_bf16", table_avx512_vnni().f, table_avx512_vnni().q};
    use_bf16_products<Avx512Bf16>(t.q);
    return t;
  }();
  return table;
}

}  // namespace gladius::cpu
