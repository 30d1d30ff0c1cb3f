// The instructions that quantised kernels need and xsimd lacks. A QuantIsa<Isa> provides, with L lanes of 32
// bits:
//   Bytes, Ints, Floats          a register of 4 L bytes, L integers, L floats
//   load(p), repeat(four_bytes)  4 L bytes from memory; the same four in every lane
//   Sums, zero(), total(s)       running sums of byte products, and their L totals
//   dot<is_signed, max_code>(s, w, y, step)   adds the products of bytes, exactly: four neighbours make a
//                                lane. w holds weight codes, 0 .. max_code or, if is_signed, -128 .. 127, and
//                                y activation codes, -127 .. 127; step counts the calls from zero() on, up to
//                                8
//   unsigned_only                is_signed is slow: 128 is better added to the codes before
//   add_pairs(sum, w, y)         sum + the products of the halves of w's lanes and of y, as 16-bit integers
//   pair_bytes(x, y)             L lanes of the bytes x[i] and, in the upper half, y[i] as 16-bit integers
//   multiply(x, y), sum(x)       of L integers
//   from_f16(p), from_bf16(p)    L halves as floats, exact
//   tile_vectors, tile_activations   the tile of sums in registers, of a product with many activations
//   pairs_rows, two_rows<units>  its sums by products of pairs of rows instead of dot
//   scales_pairs                 dot and total take a last argument, L pairs of 16-bit numbers (ones where it
//                                is left out), which sums of 16 bits are multiplied by on their way to 32:
//                                the same from zero() to total
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
