// Panels of F32, F16 and BF16 weights (weight_panels.h): made from rows, read as vectors of floats, and
// multiplied by a few activations.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cpu/pack-inl.h"
#include "kernels/cpu/panel_line-inl.h"
#include "kernels/cpu/quant_kernels.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/tile_store-inl.h"
#include "kernels/cpu/weight_panels.h"

namespace gladius::cpu {

template <class Isa, DType type>
struct PlainPanelWriter {
  // Of w_rows <= panel_rows rows of K elements.
  static void panel(int64_t K, const std::byte* rows, int64_t w_rows, std::byte* panel) {
    const int64_t words = K / panel_block(type).elements;
    Packing<Isa, F32Panels<Isa>>::pack_rows(w_rows, words, reinterpret_cast<const float*>(rows), words,
                                            panel_rows, reinterpret_cast<float*>(panel));
    if constexpr (type == DType::F16)
      for (int64_t word = 0; word < words; ++word) part_pairs(panel + word * panel_block(type).lines);
  }

 private:
  // The first of each pair of halves, then the second.
  static GLADIUS_INLINE void part_pairs(std::byte* line) {
    using Halves __attribute__((vector_size(4 * panel_rows))) = uint16_t;
    Halves x;
    std::memcpy(&x, line, sizeof(x));
    x = __builtin_shufflevector(x, x, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 1, 3, 5, 7,
                                9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    std::memcpy(line, &x, sizeof(x));
  }
};

template <class Isa, DType type>
struct MultipliedLine : PanelLine<Isa, type> {
  using V = Vec<Isa>;
  static GLADIUS_INLINE V multiply_add(V w, V y, V sum) { return Isa::fma(w, y, sum); }
};

// Few activations by panels, whose lines a Line reads and multiplies: an activation's element is multiplied
// with the whole line that it belongs to. In which order products are added does not depend on how many
// activations there are.
template <class Isa, class Line>
struct PlainPanelProduct {
  using V = Vec<Isa>;
  static constexpr int L = static_cast<int>(lanes<Isa>), vectors = static_cast<int>(panel_rows) / L;
  static constexpr int chains = vectors == 1 ? 4 : 2;  // sums of a row, by turns
  static constexpr int lines_at_once = chains / Line::words;
  static constexpr int sums_of_one = chains * vectors;        // of an activation
  static constexpr int A = Isa::registers / 2 / sums_of_one;  // activations at once
  static_assert(A >= 1);

  static void run(const TileProduct& t) {
    for (int64_t n = 0; n < t.w_rows; n += panel_rows) {
      int64_t m = 0;
      for (; m + A <= t.a_rows; m += A) block<A>(t, n, m);
      for (; m < t.a_rows; ++m) block<1>(t, n, m);
    }
  }

 private:
  // The panel of row n by M activations from m on.
  template <int M>
  static void block(const TileProduct& t, int64_t n, int64_t m) {
    const auto* panel = reinterpret_cast<const float*>(t.w + n / panel_rows * t.w_stride);
    const std::byte* y[M];
    for (int i = 0; i < M; ++i) y[i] = t.a + (m + i) * t.a_stride;
    V sums[M][vectors][chains];
#pragma GCC unroll 4
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v)
#pragma GCC unroll 4
        for (int c = 0; c < chains; ++c) sums[i][v][c] = V(0.0f);
    const auto add = [&](int64_t line, int chain) __attribute__((always_inline)) {
      const float* from = panel + line * panel_rows;
      if (m == 0) prefetch_ahead<panel_rows * sizeof(float)>(from);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
#pragma GCC unroll 2
        for (int j = 0; j < Line::words; ++j) {
          const V w = Line::word(from + Line::place(v * L), j);
#pragma GCC unroll 4
          for (int i = 0; i < M; ++i) {
            V& sum = sums[i][v][chain + j];
            sum = Line::multiply_add(w, word(y[i], line * Line::words + j), sum);
          }
        }
      }
    };
    const int64_t lines = t.w_stride / int64_t{panel_rows * sizeof(float)};
    int64_t line = 0;
    for (; line + lines_at_once <= lines; line += lines_at_once)
#pragma GCC unroll 4
      for (int i = 0; i < lines_at_once; ++i) add(line + i, i * Line::words);
#pragma GCC unroll 4
    for (int i = 0; i < lines_at_once; ++i)
      if (line + i < lines) add(line + i, i * Line::words);
    const int64_t rows = smaller(t.w_rows - n, panel_rows);
    for (int i = 0; i < M; ++i) {
      alignas(64) float out[panel_rows];
      for (int v = 0; v < vectors; ++v) store<Isa>(out + v * L, total(sums[i][v]));
      store_sums<Isa>(t, m + i, n, rows, out);
    }
  }

  static GLADIUS_INLINE V word(const std::byte* y, int64_t i) {
    float x;
    std::memcpy(&x, y + i * int64_t{sizeof(x)}, sizeof(x));
    return V(x);
  }
  static GLADIUS_INLINE V total(const V (&sums)[chains]) {
    if constexpr (chains == 2)
      return sums[0] + sums[1];
    else
      return (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }
};

}  // namespace gladius::cpu
