// Quantised weights re-laid for products: panels of 16 rows, whose codes are interleaved in fours, so that a
// vector of any instruction set holds codes of as many rows as it has 32-bit lanes, and a row's sum ends up
// in its lane. They take the same memory as the rows, but for rounding. A block of each of the 16 rows
// becomes
//   a head:  d[16], then dmin[16] or m[16] where the type has them, then, in super-blocks, byte j of each
//            row's scales, for every j
//   lines:   64 bytes, four neighbouring bytes of each row: those of qs (ql), then of qh
// and a panel is all heads, then from the next multiple of 64 bytes on all lines. Q5_0 and Q5_1 hold their
// fifth bits in one line before those of qs: bit u of byte j is that of element 4 u + j.
#pragma once

#include <cstdint>

#include "kernels/blocks.h"
#include "kernels/dtype.h"

namespace gladius::cpu {

inline constexpr int64_t panel_rows = 16;

// Bytes that a block of each row takes in a panel.
struct PanelBlock {
  int64_t head, lines;
};
__attribute__((always_inline)) constexpr PanelBlock panel_block(DType dtype) {
  constexpr int64_t line = 4 * panel_rows;
  switch (dtype) {
    case DType::Q4_0:
      return {2 * panel_rows, 4 * line};
    case DType::Q4_1:
      return {4 * panel_rows, 4 * line};
    case DType::Q5_0:
      return {2 * panel_rows, 5 * line};
    case DType::Q5_1:
      return {4 * panel_rows, 5 * line};
    case DType::Q8_0:
      return {2 * panel_rows, 8 * line};
    case DType::Q4_K:
      return {16 * panel_rows, 32 * line};
    case DType::Q5_K:
      return {16 * panel_rows, 40 * line};
    case DType::Q6_K:
      return {18 * panel_rows, 48 * line};
    default:
      return {0, 0};  // not re-laid
  }
}

// Bytes from a panel of rows of K elements to its lines, and to the next panel.
__attribute__((always_inline)) constexpr int64_t panel_lines_at(DType dtype, int64_t K) {
  const int64_t block =
      dtype == DType::Q4_K || dtype == DType::Q5_K || dtype == DType::Q6_K ? kSuperBlock : kBlock;
  return (K / block * panel_block(dtype).head + 63) / 64 * 64;
}
__attribute__((always_inline)) constexpr int64_t panel_bytes(DType dtype, int64_t K) {
  const int64_t block =
      dtype == DType::Q4_K || dtype == DType::Q5_K || dtype == DType::Q6_K ? kSuperBlock : kBlock;
  return panel_lines_at(dtype, K) + K / block * panel_block(dtype).lines;
}

}  // namespace gladius::cpu
