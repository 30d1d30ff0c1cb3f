// Matrix products from panels, after Goto & van de Geijn 2008 ("Anatomy of high-performance matrix
// multiplication") and BLIS (Van Zee & van de Geijn 2015), and products of few rows.
#pragma once

#include "kernels/cpu/float_kernels.h"
#include "kernels/cpu/pack-inl.h"
#include "kernels/cpu/register_tile-inl.h"
#include "kernels/cpu/simd.h"

namespace gladius::cpu {

// The register tile for rows of A that are read where they lie. It may have fewer of them than that for
// packed rows, each used for more columns.
template <class Isa>
struct InPlaceTile : Isa {
  static constexpr int gemm_rows = Isa::in_place_rows, gemm_vectors = Isa::in_place_vectors;
};

// Reads A in place, which must be contiguous along k, or packs it.
template <class Isa, class Panels, bool InPlace>
struct Gemm {
  static_assert(Isa::gemm_rows <= gemm_most_rows && Panels::word_floats <= Panels::per_word);
  static constexpr int64_t cols = Isa::gemm_vectors * lanes<Isa>;
  using Pack = Packing<Isa, Panels>;

  // B is packed for a block of the summed dimension, to stay in the second-level cache; rows of A pass by it,
  // some at a time.
  static void run(const GemmTask& t) {
    const Work work(t);
    for (int64_t p = 0; p < t.k || p == 0; p += work.block_k) multiply_block(t, work, p);
  }

  static constexpr GemmKernel kernel() { return {run, Isa::gemm_rows, cols, InPlace}; }

 private:
  static constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
  static constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

  struct Work {
    int64_t height;  // of register tiles: equal ones rather than full ones and a rest
    int64_t block_k;
    float *a, *b;
    explicit Work(const GemmTask& t)
        : height(ceil_div(t.rows, ceil_div(t.rows, Isa::gemm_rows))),
          block_k(gemm_block_k(t.k, InPlace)),
          a(t.scratch),
          b(t.scratch + gemm_group_floats) {}
  };

  static void multiply_block(const GemmTask& t, const Work& work, int64_t p) {
    const int64_t k = smaller(work.block_k, t.k - p), words = Pack::words(k);
    const int64_t floats = words * Panels::word_floats, group = gemm_group_panels * work.height;
    const TileStore to{p > 0 || t.add, p + k >= t.k ? t.residual : nullptr};
    for (int64_t i0 = 0; i0 < t.rows; i0 += group) {
      const int64_t rows = smaller(group, t.rows - i0);
      if (!InPlace) Pack::pack(t.a.from(i0, p), rows, t.rows - i0, k, work.height, work.a);
      for (int64_t j = 0; j < t.cols; j += cols) {
        float* const b = work.b + j * floats;
        const int64_t width = smaller(cols, t.cols - j);
        // Each panel just before its first use, while it is in the nearest caches.
        if (i0 == 0) Pack::pack(t.b.from(j, p), width, t.cols - j, k, cols, b);
        for (int64_t i = 0; i < rows; i += work.height) {
          const int64_t at = (i0 + i) * t.c_stride + j;
          const float* a = InPlace ? t.a.from(i0 + i, p).data : work.a + i * floats;
          const int64_t a_row = InPlace ? t.a.stride : Panels::word_floats;
          const int64_t a_step = InPlace ? 1 : work.height * Panels::word_floats;
          multiply_tile<Isa, typename Panels::Words, InPlace>(
              smaller(work.height, rows - i), width, {words, a, a_row, a_step, b, cols * Panels::word_floats},
              t.c + at, t.c_stride, {to.add, to.residual ? to.residual + at : nullptr});
        }
      }
    }
  }
};

// Products of at most few_rows rows, which read B once and as it lies.
template <class Isa>
struct FewRows {
  using V = Vec<Isa>;
  static constexpr int64_t w = lanes<Isa>;

  static void run(const FewRowsTile& t) { functions[t.rows - 1](t); }

 private:
  // R rows of A against Columns rows of B at once: each vector of A or B is loaded once for several products.
  template <int R, int Columns>
  static void block(const FewRowsTile& t, int64_t column) {
    V sums[R][Columns];
    for (int i = 0; i < R; ++i)
      for (int j = 0; j < Columns; ++j) sums[i][j] = V(0.0f);
    const float* b = t.b + column * t.b_stride;
    const auto step = [&](auto fetch) {
      V rows[R];
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) rows[i] = fetch(t.a + i * t.a_stride);
#pragma GCC unroll 8
      for (int j = 0; j < Columns; ++j) {
        const V x = fetch(b + j * t.b_stride);
#pragma GCC unroll 8
        for (int i = 0; i < R; ++i) sums[i][j] = Isa::fma(rows[i], x, sums[i][j]);
      }
    };
    int64_t p = 0;
    for (; p + w <= t.k; p += w) step([p](const float* x) { return load<Isa>(x + p); });
    if (p < t.k) step([p, &t](const float* x) { return load_first<Isa>(x + p, t.k - p); });
    for (int i = 0; i < R; ++i) {
      for (int j = 0; j < Columns; ++j) {
        const int64_t at = i * t.c_stride + column + j;
        float sum = reduce_add<Isa>(sums[i][j]);
        if (t.add) sum += t.c[at];
        if (t.residual) sum += t.residual[at];
        t.c[at] = sum;
      }
    }
  }

  template <int R>
  static void of_rows(const FewRowsTile& t) {
    constexpr int columns = R == 1 ? 8 : R <= 3 ? 4 : 2;
    int64_t j = 0;
    for (; j + columns <= t.cols; j += columns) block<R, columns>(t, j);
    for (; j < t.cols; ++j) block<R, 1>(t, j);
  }

  static constexpr void (*functions[few_rows])(const FewRowsTile&) = {
      &of_rows<1>, &of_rows<2>, &of_rows<3>, &of_rows<4>, &of_rows<5>, &of_rows<6>, &of_rows<7>, &of_rows<8>};
};

}  // namespace gladius::cpu
