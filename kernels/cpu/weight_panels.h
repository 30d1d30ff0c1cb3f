// Weights re-laid for products: panels of 16 rows, whose elements are interleaved in words of 32 bits, so
// that a vector of any instruction set holds elements of as many rows as it has such lanes, and a row's sum
// ends up in its lane. They take the same memory as the rows, but for rounding. A block of each of the 16
// rows of quantised weights becomes
//   a head:  d[16], then dmin[16] or m[16] where the type has them, then, in super-blocks, byte j of each
//            row's scales, for every j
//   lines:   64 bytes, four neighbouring bytes of each row: those of qh (Q5_K), then of qs; of Q6_K, for each
//            four of 32 neighbouring codes, those of ql, of ql 32 bytes on, and of qh
// A panel is a head, from the next multiple of 64 bytes on its lines, the next head, and so on, because
// memory is best read in one stream; heads of 32 bytes come in pairs, before the lines of both. Q5_0 and Q5_1
// hold their fifth bits in one line before those of qs: bit u of byte j is that of element 4 u + j.
//
// Others have no heads: a line is an element of each row (F32) or two, as pairs (BF16) or first the one of
// all rows, then the other (F16).
#pragma once

#include <cstdint>

#include "kernels/blocks.h"
#include "kernels/dtype.h"

namespace gladius::cpu {

inline constexpr int64_t panel_rows = 16;

// A block's elements, and the bytes that one of each row takes in a panel; lines: 0 of a type that is not
// re-laid.
struct PanelBlock {
  int64_t elements, head, lines;
};
__attribute__((always_inline)) constexpr PanelBlock panel_block(DType dtype) {
  constexpr int64_t line = 4 * panel_rows;
  switch (dtype) {
    case DType::F32:
      return {1, 0, line};
    case DType::F16:
    case DType::BF16:
      return {2, 0, line};
    case DType::Q4_0:
      return {kBlock, 2 * panel_rows, 4 * line};
    case DType::Q4_1:
      return {kBlock, 4 * panel_rows, 4 * line};
    case DType::Q5_0:
      return {kBlock, 2 * panel_rows, 5 * line};
    case DType::Q5_1:
      return {kBlock, 4 * panel_rows, 5 * line};
    case DType::Q8_0:
      return {kBlock, 2 * panel_rows, 8 * line};
    case DType::Q4_K:
      return {kSuperBlock, 16 * panel_rows, 32 * line};
    case DType::Q5_K:
      return {kSuperBlock, 16 * panel_rows, 40 * line};
    case DType::Q6_K:
      return {kSuperBlock, 18 * panel_rows, 48 * line};
    default:
      return {1, 0, 0};
  }
}

// Blocks whose heads lie side by side, so that they fill cache lines, and the bytes of such a group.
struct PanelGroup {
  int64_t blocks, heads, bytes;
};
__attribute__((always_inline)) constexpr PanelGroup panel_group(DType dtype) {
  constexpr int64_t line = 64;
  const auto [elements, head, lines] = panel_block(dtype);
  const int64_t blocks = head > 0 && head < line ? line / head : 1,
                heads = (blocks * head + line - 1) / line * line;
  return {blocks, heads, heads + blocks * lines};
}

// Where a block's head and lines are in a panel, in bytes.
struct PanelPlace {
  int64_t head, lines;
};
__attribute__((always_inline)) constexpr PanelPlace panel_place(DType dtype, int64_t block) {
  const auto [elements, head, lines] = panel_block(dtype);
  const PanelGroup group = panel_group(dtype);
  const int64_t at = block / group.blocks * group.bytes, i = block % group.blocks;
  return {at + i * head, at + group.heads + i * lines};
}

// From a panel of rows of K elements, a multiple of a block's, to the next.
__attribute__((always_inline)) constexpr int64_t panel_bytes(DType dtype, int64_t K) {
  const PanelGroup group = panel_group(dtype);
  const int64_t blocks = K / panel_block(dtype).elements;
  return (blocks + group.blocks - 1) / group.blocks * group.bytes;
}

}  // namespace gladius::cpu
