// Sizes of the blocks that operations are cut into, and what they make of scratch memory. All in elements.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

namespace gladius::cpu {

inline constexpr int64_t few_rows_cols = 64;            // columns of a task of a product of few rows
inline constexpr int64_t gemm_serial_below = 524288;    // multiplications not worth waking threads for,
inline constexpr int64_t gemm_serial_below_b = 131072;  // if fewer elements of B are to be read, too

// Rows of floats A lying farther apart are packed first.
inline constexpr int64_t gemm_rows_stride = 8192;

// So are lines of A that lie a page or more apart: a CPU's own asking ahead ends with the page.
inline constexpr int64_t gemm_lines_stride = 1024;

// Beside rows of A that are read in place, whose blocks are long, no more floats of B are packed at a time
// than that, even if the second-level cache has room.
inline constexpr int64_t gemm_rows_packed_b = 200 << 10;

// A core's own cache.
struct SecondLevelCache {
  int64_t bytes, ways;

  // Whether `lines` lines of memory, `stride` bytes apart, fall into so many sets that they need at most half
  // of each.
  bool holds(int64_t lines, int64_t stride) const {
    constexpr int64_t line = 64;
    const int64_t way = bytes / ways;  // holds a line of each set
    return lines * std::max(line, std::gcd(stride, way)) <= ways / 2 * way;
  }
};

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
