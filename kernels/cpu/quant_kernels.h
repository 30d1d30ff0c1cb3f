// Kernels on 16-bit and quantised rows, one table per instruction set. Every instruction set gives the same
// bits, but for the order of summation in products with F16 and BF16 weights.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/dtype.h"

namespace gladius::cpu {

// Rows of activations that one call of a tile product may take.
inline constexpr int64_t max_tile_activations = 64;

// out[m, n] = (sum over k of a[m, k] * w[n, k]) + (out[m, n] if accumulate) + (residual[m, n] if residual).
struct TileProduct {
  int64_t K;      // a multiple of the weight's block size
  const void* w;  // w_rows rows of the weight, row_bytes(dtype, K) apart
  int64_t w_rows;
  const std::byte* a;  // a_rows <= max_tile_activations converted rows, activation_row_bytes(dtype, K) apart
  int64_t a_rows;
  float* out;  // [a_rows, w_rows], rows ldo floats apart
  int64_t ldo;
  bool accumulate;
  const float* residual;  // rows ldo floats apart, or null
};

// Bytes of one activation row converted for a weight of type `weight`: a multiple of 64. Quantised weights: K
// int8 codes, then floats d (one a block), floats s (Q8_1 only, one a block), int32 sums of codes (one for 16
// elements in Q8_K, else for 32); the values are those of the blocks of dtype_info(weight).dot_with. F16 and
// BF16: K floats rounded to that type (an instruction set with BF16 products may keep 16-bit values instead),
// padded with zeros.
inline int64_t activation_row_bytes(DType weight, int64_t K) {
  const DType type = dtype_info(weight).dot_with;
  int64_t bytes = 4 * K;
  if (type == DType::Q8_0) bytes = K + K / 32 * 8;
  if (type == DType::Q8_1) bytes = K + K / 32 * 12;
  if (type == DType::Q8_K) bytes = K + K / 256 * 4 + K / 16 * 4;
  return (bytes + 63) / 64 * 64;
}

struct QuantKernels {
  // y = x quantised to dtype, one row of n elements (Backend::quantize); importance [n] or null.
  void (*quantize_row)(DType dtype, int64_t n, const float* x, const float* importance, void* y);
  // y[n] = the values of a row of any dtype but I32.
  void (*dequantize_row)(DType dtype, int64_t n, const void* x, float* y);
  // a = x[K] converted for a product with a weight of type `weight` (activation_row_bytes); a is 64-byte
  // aligned.
  void (*convert_activations)(DType weight, int64_t K, const float* x, std::byte* a);
  // A tile of the product with a weight of F16, BF16 or a quantised type. The result does not depend on how
  // rows are grouped into tiles.
  void (*matmul_tile)(DType weight, const TileProduct& tile);
};

// Defined in quant_kernels-inl.h, instantiated by isa/NAME.cpp.
template <class Isa>
QuantKernels make_quant_kernels();

}  // namespace gladius::cpu
