// Kernels on weights of all types, one table per instruction set. Every instruction set gives the same bits,
// but for the order of summation in products with F32, F16 and BF16 weights.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/float_kernels.h"

namespace gladius::cpu {

// Rows of activations that one call of a tile product may take.
inline constexpr int64_t max_tile_activations = 512;

// out[m, n] = (sum over k of a[m, k] * w[n, k]) + (out[m, n] if accumulate) + (residual[m, n] if residual).
struct TileProduct {
  int64_t K;           // a multiple of the weight's block size
  const std::byte* w;  // w_rows rows of the weight, or their panels
  int64_t w_rows;
  int64_t w_stride;  // bytes from a row or panel to the next: row_bytes(weight, K) or panel_bytes(weight, K)
  bool panels;       // w is in panels, w_rows starting one
  const std::byte* a;  // converted rows, at most max_tile_activations, 64-byte aligned
  int64_t a_rows;
  int64_t a_stride;  // bytes from one to the next: activation_row_bytes(weight, K)
  float* out;        // [a_rows, w_rows]
  int64_t ldo;       // floats from one row of out (and of residual) to the next
  bool accumulate;
  const float* residual;  // or null
};

// Bytes of one activation row converted for a weight of type `weight`: an odd multiple of 64, so that rows of
// a tile do not compete for the same cache sets. Quantised weights: K int8 codes, then floats d (one a
// block), int32 sums of a block's codes and floats s (Q8_1 only) or, for super-blocks, int16 sums of 16 and
// of 32 codes; the values are those of the blocks of dtype_info(weight).dot_with. F32, F16 and BF16: K
// floats, for BF16 rounded to it, or for PairKernels K BF16 values, padded with zeros.
int64_t activation_row_bytes(DType weight, int64_t K);

// No type's row is longer: 4 bytes an element, rounded up to an odd multiple of 64.
constexpr int64_t max_activation_row_bytes(int64_t K) { return 4 * K + 128; }

// Products of pairs of BF16, which stay in 16 bits; null where an instruction set lacks them.
struct PairKernels {
  void (*convert)(int64_t K, const float* x, std::byte* a);  // as convert_activations
  void (*tile)(const TileProduct&);                          // as matmul_tile, with such activations
  GemmKernel gemm;  // of many rows: pairs count as elements, so K is even
};

struct QuantKernels {
  // y = x quantised to dtype, one row of n elements (Backend::quantize); importance [n] or null.
  void (*quantize_row)(DType dtype, int64_t n, const float* x, const float* importance, void* y);
  // y[n] = the values of a row of any dtype but I32.
  void (*dequantize_row)(DType dtype, int64_t n, const void* x, float* y);
  // a = x[K] converted for a product with a weight of any type, activation_row_bytes long, 64-byte aligned.
  void (*convert_activations)(DType weight, int64_t K, const float* x, std::byte* a);
  // A tile of the product with such a weight, F32 in panels only. The result does not depend on how rows are
  // grouped into tiles.
  void (*matmul_tile)(DType weight, const TileProduct& tile);
  // Panel (weight_panels.h) of w_rows <= panel_rows rows of K elements, row_bytes apart; missing ones are
  // zeros.
  void (*make_panel)(DType weight, int64_t K, const std::byte* rows, int64_t w_rows, std::byte* panel);
  PairKernels pairs;
};

// Defined in quant_kernels-inl.h, instantiated by isa/NAME.cpp.
template <class Isa>
QuantKernels make_quant_kernels();
// Defined in quant_bf16-inl.h.
template <class Isa, class Pairs>
PairKernels make_pair_kernels();

}  // namespace gladius::cpu
