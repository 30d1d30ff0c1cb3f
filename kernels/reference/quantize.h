// Quantisers and their inverses as plain loops. Float32 arithmetic in exactly this order is part of the
// definition: bytes are those of llama.cpp's llama-quantize, and where those are undefined, because a block's
// scale has no finite inverse (it is below 3e-39), those of a block of zeros.
//
// Elements must be finite and below 4e6 times their block's scale, which every row that F16 can hold is.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace gladius::reference {

// y = x[rows, cols] as dtype (any but I32), row by row; cols is a multiple of the block size. importance
// [cols] weighs the squared error of each column; null: the type's own default. F16, BF16, Q8_0 and the
// activation types Q8_1 and Q8_K ignore it.
void quantize_rows(DType dtype, int64_t rows, int64_t cols, const float* x, const float* importance, void* y);

// y[rows, cols] = the values that x stores.
void dequantize_rows(DType dtype, int64_t rows, int64_t cols, const void* x, float* y);

}  // namespace gladius::reference
