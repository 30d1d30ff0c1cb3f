// AVX-512 with VNNI and BF16: Intel since Cooper Lake, AMD since Zen 4.
#include "kernels/cpu/kernel_table.h"

namespace gladius::cpu {

const KernelTable& table_avx512_bf16() {
  static const KernelTable table{"avx512_bf16", table_avx512_vnni().f, table_avx512_vnni().q};
  return table;
}

}  // namespace gladius::cpu
