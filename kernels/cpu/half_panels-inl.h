// 16-bit weights in matrix products by many rows (gemm-inl.h). They are read as words of two of them, so K is
// even.
#pragma once

#include "kernels/cpu/gemm-inl.h"
#include "kernels/cpu/panel_line-inl.h"
#include "kernels/cpu/widened-inl.h"

namespace gladius::cpu {

// Made floats, exactly, while they are packed.
template <class Isa, DType type>
struct HalfPanels {
  static constexpr int64_t word_floats = 1, per_word = 1, per_float = 2;
  static constexpr bool plain = false;
  static GLADIUS_INLINE Vec<Isa> along(const float* x) { return Widened<Isa, type>::load(x); }
  using Line = PanelLine<Isa, type>;
};

// Floats by such weights.
template <class Isa, DType type>
constexpr GemmKernel widening_gemm() {
  using Tile = InPlaceTile<Isa>;
  return Gemm<Tile, F32Panels<Tile>, Reads::rows, HalfPanels<Isa, type>>::kernel();
}

// Both factors are pairs of BF16, which pass through the product of floats as words. Pairs multiplies them
// (quant_bf16-inl.h).
template <class Isa, class Pairs>
struct PairWords : F32Panels<Isa> {
  using Words = PairWords;
  static GLADIUS_INLINE Vec<Isa> multiply_add(Vec<Isa> a, Vec<Isa> b, Vec<Isa> sum) {
    return Pairs::multiply_add(a, b, sum);
  }
};

template <class Isa, class Pairs>
constexpr GemmKernel pairs_gemm() {
  using Tile = InPlaceTile<Isa>;
  return Gemm<Tile, PairWords<Tile, Pairs>, Reads::rows>::kernel();
}

}  // namespace gladius::cpu
