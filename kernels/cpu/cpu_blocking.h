// Sizes of the blocks that operations are cut into, and what they make of scratch memory. All in elements.
#pragma once

#include <cstdint>

namespace gladius::cpu {

// Matrix products C[rows, cols] = A·B, from the outermost loop inwards.
inline constexpr int64_t gemm_outer_k = 1152;     // of the summed dimension: A, packed at a time
inline constexpr int64_t gemm_block_rows = 1024;  // of A and C: packed at a time
inline constexpr int64_t gemm_block_cols = 2048;  // of B and C: packed at a time
inline constexpr int64_t gemm_block_k = 384;      // summed at a time: a panel is about a first-level cache
inline constexpr int64_t gemm_tile_rows = 84;     // of C: a task, in whole panels
inline constexpr int64_t gemm_tile_cols = 256;    // its width; so much of B fits the second-level cache

inline constexpr int64_t few_rows_cols = 32;          // columns of a task of a product of few rows
inline constexpr int64_t gemm_serial_below = 524288;  // multiplications not worth waking threads for

// Rows are padded to whole panels, at most a quarter more (four rows is the smallest register tile).
inline constexpr int64_t packed_a_floats = (gemm_block_rows + gemm_block_rows / 4) * gemm_outer_k;
inline constexpr int64_t max_register_tile = 64;  // columns of any instruction set's register tile
inline constexpr int64_t packed_b_floats = (gemm_block_cols + max_register_tile) * gemm_block_k;

inline constexpr int64_t max_partial_sums = 4096;  // of the sum of squares

}  // namespace gladius::cpu
