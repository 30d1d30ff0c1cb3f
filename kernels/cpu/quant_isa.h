// The instructions that quantised kernels need and xsimd lacks. A QuantIsa<Isa> provides, with L lanes of 32
// bits:
//   Bytes, Ints, Floats          a register of 4 L bytes, L integers, L floats
//   load(p), repeat(four_bytes)  4 L bytes from memory; the same four in every lane
//   Sums, zero(), total(s)       running sums of byte products, and their L totals
//   dot<is_signed>(s, w, y)      adds the products of bytes, exactly: four neighbours make a lane. w holds
//                                weight codes, 0 .. 127 or, if is_signed, -128 .. 127, and y activation
//                                codes, -127 .. 127
//   multiply(x, y), sum(x)       of L integers
//   from_f16(p), from_bf16(p)    L halves as floats, exact
//   panel_step                   consecutive elements of one row in a panel (quant_matmul-inl.h)
#pragma once

namespace gladius::cpu {
template <class Isa>
struct QuantIsa;
}

#if defined(__x86_64__)
#include "kernels/cpu/quant_isa_x86.h"
#elif defined(__aarch64__)
#include "kernels/cpu/quant_isa_neon.h"
#endif
