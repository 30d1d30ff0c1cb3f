// What an instruction set provides: two tables of function pointers, one per family of kernels. Every
// isa/NAME.cpp builds one KernelTable; a table for a later extension starts as a copy of an earlier one and
// replaces what it improves.
#pragma once

#include "kernels/cpu/float_kernels.h"
#include "kernels/cpu/quant_kernels.h"

namespace gladius::cpu {

struct KernelTable {
  const char* name;  // "avx2"
  FloatKernels f;    // floating-point kernels
  QuantKernels q;    // kernels on quantised rows
};

// Defined in isa/NAME.cpp, each only where the build has that file.
const KernelTable& table_sse2();
const KernelTable& table_avx2();
const KernelTable& table_avx512();
const KernelTable& table_avx512_vnni();
const KernelTable& table_avx512_bf16();
const KernelTable& table_neon();
const KernelTable& table_neon_dotprod();
const KernelTable& table_neon_i8mm();
const KernelTable& table_neon_bf16();

}  // namespace gladius::cpu
