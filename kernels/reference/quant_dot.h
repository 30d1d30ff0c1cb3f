// Products of one weight row and one activation row, both in blocks.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace gladius::reference {

// sum over n elements of w * a, where w is a row of `weight` and a is a row of dtype_info(weight).dot_with; n
// is a multiple of the block size. Sums of products of codes are exact integers. Blocks are then added in
// order in float32, as
//   Q4_0, Q5_0, Q8_0:  (d_w * d_a) * sum
//   Q4_1, Q5_1:        (d_w * d_a) * sum + m_w * s_a
//   Q4_K, Q5_K:        (d_w * d_a) * sum_j sc_j sum_j - (dmin_w * d_a) * sum_j m_j bsum_j
//   Q6_K:              (d_w * d_a) * sum_j sc_j sum_j
// (formulas of ggml's ggml_vec_dot_*). F16, BF16 and F32 are added in double.
float dot_row(DType weight, int64_t n, const void* w, const void* a);

}  // namespace gladius::reference
