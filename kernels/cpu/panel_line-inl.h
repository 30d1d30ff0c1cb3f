// How a line of a panel of F32, F16 or BF16 weights (weight_panels.h) is read as vectors of floats.
#pragma once

#include <cstdint>

#include "kernels/cpu/simd.h"
#include "kernels/cpu/weight_panels.h"
#include "kernels/cpu/widened-inl.h"

namespace gladius::cpu {

// A line holds `words` elements of each row.
template <class Isa, DType type>
struct PanelLine {
  using V = Vec<Isa>;
  static constexpr int words = static_cast<int>(panel_block(type).elements);
  static constexpr bool pairs = type == DType::BF16;  // a row's words are neighbours

  // Where the rows from `row` on begin in a line, in floats; row even.
  static constexpr int64_t place(int64_t row) { return words == 1 || pairs ? row : row / words; }

  // The word-th words of a vector of rows, exactly, from their place on.
  static GLADIUS_INLINE V word(const float* rows, int word) {
    if constexpr (pairs) {  // a BF16 is the first half of a float
      using Bits __attribute__((vector_size(lanes<Isa> * sizeof(uint32_t)))) = uint32_t;
      Bits both;
      __builtin_memcpy(&both, rows, sizeof(both));
      const Bits part = word == 0 ? both << 16 : both & 0xffff0000;
      return load<Isa>(reinterpret_cast<const float*>(&part));
    } else {
      return Widened<Isa, type>::load(rows + word * (panel_rows / words));
    }
  }
};

}  // namespace gladius::cpu
