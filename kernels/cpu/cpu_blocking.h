// Sizes of the blocks that operations are cut into, and what they make of scratch memory. All in elements.
#pragma once

#include <cstdint>

namespace gladius::cpu {

inline constexpr int64_t few_rows_cols = 64;            // columns of a task of a product of few rows
inline constexpr int64_t gemm_serial_below = 524288;    // multiplications not worth waking threads for,
inline constexpr int64_t gemm_serial_below_b = 131072;  // if fewer elements of B are to be read, too

// Rows of floats A lying farther apart are packed first. So are lines that are longer than packed B's room
// divided by gemm_lines_share, which share too few sets of the second-level cache: 1,024 floats where it has
// 2 MiB, 512 where it has one.
inline constexpr int64_t gemm_rows_stride = 8192, gemm_lines_share = 306;
// Columns at whose multiples C is cut: those of a cache line, whole vectors of every instruction set.
inline constexpr int64_t gemm_cut_cols = 16;

// Of activations, converted at a time for a weight.
inline constexpr int64_t converted_bytes = 9 << 20;

// Rows of A, rounded to BF16.
inline constexpr int64_t converted_rows_per_task = 16;

// A few rows' keys are cut into pieces of so many, or more where there would be more than attention_partials
// pieces.
inline constexpr int64_t attention_piece_keys = 1008, attention_partials = 120;

inline constexpr int64_t max_partial_sums = 4096;  // of the sum of squares

inline constexpr int64_t norm_partial_floats = 1 << 17;  // of the gradients of RMSNorm's weights

}  // namespace gladius::cpu
