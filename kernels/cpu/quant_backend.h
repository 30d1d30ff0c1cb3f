// Operations on 16-bit and quantised arrays for the CPU backend: they split the work into tiles and hand
// those to threads. Borders depend on shapes only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/backend.h"
#include "kernels/cpu/quant_kernels.h"

namespace gladius::cpu {

// Scratch that matmul_quantized wants for M rows: room for all converted activations. With less, down to the
// room for one row (M = 1), it works through the rows in several passes and the result is the same.
size_t quantized_scratch_bytes(DType weight, int64_t M, int64_t K);

// Backend::matmul_weights for every weight but rows of F32; the weights' activations are converted to the
// same type (dtype_info(..).dot_with). The epilogue is that of each product. K is a multiple of the weights'
// block sizes; scratch is 64-byte aligned and holds at least quantized_scratch_bytes(dtype, 1, d.K) of each.
void matmul_quantized(const QuantKernels& kernels, int threads, MatmulDims d, const float* A,
                      std::span<const WeightProduct> products, Epilogue e, std::span<std::byte> scratch);

// Backend::make_panels.
void make_panels(const QuantKernels& kernels, int threads, DType dtype, int64_t N, int64_t K,
                 const void* rows, void* panels);

// Backend::quantize.
void quantize(const QuantKernels& kernels, int threads, DType dtype, int64_t rows, int64_t cols,
              const float* x, const float* importance, void* y);

// Backend::dequantize.
void dequantize(const QuantKernels& kernels, int threads, DType dtype, int64_t rows, int64_t cols,
                const void* x, float* y);

}  // namespace gladius::cpu
