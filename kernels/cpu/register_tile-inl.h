// The innermost loop of matrix products: a tile of accumulators in registers walks the summed dimension.
#pragma once

#include <utility>

#include "kernels/cpu/float_kernels.h"
#include "kernels/cpu/simd.h"

namespace gladius::cpu {

// How the factors of a product are held in panels: as words as large as `word_floats` floats, each with
// `per_word` neighbours along the summed dimension. F32 panels hold the floats themselves: they are `plain`.
template <class Isa>
struct F32Panels {
  using V = Vec<Isa>;
  using Words = F32Panels;  // what register tiles multiply
  static constexpr int64_t word_floats = 1, per_word = 1;
  static constexpr bool plain = true;
  // Words from what is contiguous along the summed dimension, a vector of them.
  static GLADIUS_INLINE V along(const float* x) { return load<Isa>(x); }
  // A word each from columns that are contiguous across it; its lines are `stride` apart.
  static GLADIUS_INLINE V across(const float* x, int64_t) { return load<Isa>(x); }
  // Adds per_word products to each lane of a sum.
  static GLADIUS_INLINE V multiply_add(V a, V b, V sum) { return Isa::fma(a, b, sum); }
};

// What happens to a register tile's sums: C is added to rather than overwritten; residual (stride as C) is
// added when not null.
struct TileStore {
  bool add;
  const float* residual;
};

// The factors of a register tile's product, k words long: word (i, p) of A is at a + i * a_row + p * a_step,
// line p of B at b + p * b_step.
struct TileFactors {
  int64_t k;
  const float* a;
  int64_t a_row, a_step;
  const float* b;
  int64_t b_step;
  float* copy = nullptr;  // a panel for the lines of B, which a Copying tile makes as it passes them
  // What will be needed later: a piece of the tile's width is asked for every tile_unroll words.
  const float* ahead = nullptr;
  int64_t ahead_step = 0;
};

inline constexpr int tile_unroll = 8;

// How a register tile walks the summed dimension. In a panel or a transpose the rows of A are neighbours
// (a_row is 1 word); otherwise they are Strided, and their words neighbours (a_step is 1 word). Specialised
// for panels whose multiply_add makes more of two vectors than products lane by lane.
template <class Isa, class Panels, int R, bool Strided, bool Copying>
struct TileWalk {
  using V = Vec<Isa>;
  static constexpr int vectors = Isa::gemm_vectors;
  static constexpr int held = R;                           // rows of sums in registers
  static constexpr int bases = Strided ? (R + 2) / 3 : 1;  // row i is at a[i / 3], 0 to 2 rows on

  const float* a[bases];
  const float* b;
  float* copy;
  int64_t a_row, a_step, b_step;

  explicit GLADIUS_INLINE TileWalk(const TileFactors& f)
      : b(f.b),
        copy(f.copy),
        a_row(Strided ? f.a_row : 1),
        a_step(Strided ? Panels::word_floats : f.a_step),
        b_step(f.b_step) {
    for (int i = 0; i < bases; ++i) a[i] = f.a + 3 * i * f.a_row;
  }

  // Adds the products of the next Words words. The rows of A are asked for a cache line ahead.
  template <int Words>
  GLADIUS_INLINE void multiply(V (&sums)[held][vectors]) {
#pragma GCC unroll 8
    for (int word = 0; word < Words; ++word) {
      V columns[vectors];
#pragma GCC unroll 8
      for (int j = 0; j < vectors; ++j) columns[j] = load<Isa>(b + j * lanes<Isa>);
      if constexpr (Copying) {
#pragma GCC unroll 8
        for (int j = 0; j < vectors; ++j, copy += lanes<Isa>) store<Isa>(copy, columns[j]);
      }
      if constexpr (Strided && Words > 1) {
#pragma GCC unroll 8
        for (int i = word; i < R; i += Words) __builtin_prefetch(row(i) + floats_per_line);
      }
#pragma GCC unroll 64
      for (int i = 0; i < R; ++i) {
        const V x(row(i)[Strided ? word : 0]);
#pragma GCC unroll 8
        for (int j = 0; j < vectors; ++j) sums[i][j] = Panels::multiply_add(x, columns[j], sums[i][j]);
      }
      if (!Strided) a[0] += a_step;
      b += b_step;
    }
    if constexpr (Strided) {
#pragma GCC unroll 16
      for (int i = 0; i < bases; ++i) a[i] += Words;
    }
  }

  // Makes sums[i] row i of the tile.
  static GLADIUS_INLINE void finish(V (&)[held][vectors]) {}

 private:
  GLADIUS_INLINE const float* row(int i) const { return Strided ? a[i / 3] + i % 3 * a_row : a[0] + i; }
};

// C[R, gemm_cols] (+)= A·B (+ residual).
template <class Isa, class Panels, int R, bool Strided, bool Copying>
struct RegisterTile {
  using V = Vec<Isa>;
  using Walk = TileWalk<Isa, Panels, R, Strided, Copying>;
  static constexpr int vectors = Isa::gemm_vectors;

  static void run(const TileFactors& f, float* c, int64_t c_stride, TileStore to) {
    V sums[Walk::held][vectors];
#pragma GCC unroll 64
    for (int i = 0; i < Walk::held; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < vectors; ++j) sums[i][j] = V(0.0f);
    Walk walk(f);
    const float *line = c, *ahead = f.ahead ? f.ahead : f.b;  // b: a line that is there anyway
    int64_t p = 0;
    for (; p + tile_unroll <= f.k; p += tile_unroll, ahead += f.ahead_step) {
      // C's rows, too, come while others are multiplied.
      if (p < R * tile_unroll) fetch_line<true>(line);
      line += c_stride;
      fetch_line<false>(ahead);
      walk.template multiply<tile_unroll>(sums);
    }
    for (; p < f.k; ++p) walk.template multiply<1>(sums);
    Walk::finish(sums);
#pragma GCC unroll 64
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < vectors; ++j) {
        const int64_t at = i * c_stride + j * lanes<Isa>;
        V sum = sums[i][j];
        if (to.add) sum = sum + load<Isa>(c + at);
        if (to.residual) sum = sum + load<Isa>(to.residual + at);
        store<Isa>(c + at, sum);
      }
    }
  }

 private:
  template <bool Write>
  static GLADIUS_INLINE void fetch_line(const float* x) {
#pragma GCC unroll 8
    for (int j = 0; j < vectors * lanes<Isa>; j += floats_per_line) {
      if (Write)
        __builtin_prefetch(x + j, 1);
      else
        __builtin_prefetch(x + j, 0, 2);
    }
  }
};

using RegisterTileFunction = void (*)(const TileFactors&, float*, int64_t, TileStore);

// register_tiles<Isa, Panels, Strided, Copying>.of_rows[R - 1] computes R rows.
template <class Isa>
struct RegisterTileTable {
  RegisterTileFunction of_rows[Isa::gemm_rows];
};
template <class Isa, class Panels, bool Strided, bool Copying, size_t... I>
constexpr RegisterTileTable<Isa> make_register_tiles(std::index_sequence<I...>) {
  return {{&RegisterTile<Isa, Panels, static_cast<int>(I) + 1, Strided, Copying>::run...}};
}
template <class Isa, class Panels, bool Strided, bool Copying>
inline constexpr RegisterTileTable<Isa> register_tiles =
    make_register_tiles<Isa, Panels, Strided, Copying>(std::make_index_sequence<Isa::gemm_rows>());

// Computes `rows` × `cols` elements of C, at most a register tile. Where they are fewer columns, the tile is
// computed whole, aside, and its columns within C are copied out: lines of B must be readable as whole ones.
template <class Isa, class Panels, bool Strided, bool Copying = false>
GLADIUS_INLINE void multiply_tile(int64_t rows, int64_t cols, const TileFactors& f, float* c,
                                  int64_t c_stride, TileStore to) {
  constexpr int64_t tile_cols = Isa::gemm_vectors * lanes<Isa>;
  const RegisterTileFunction multiply = register_tiles<Isa, Panels, Strided, Copying>.of_rows[rows - 1];
  if (cols == tile_cols) return multiply(f, c, c_stride, to);
  alignas(64) float whole[Isa::gemm_rows * tile_cols];
  multiply(f, whole, tile_cols, {false, nullptr});
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < cols; ++j) {
      const int64_t at = i * c_stride + j;
      float sum = whole[i * tile_cols + j];
      if (to.add) sum += c[at];
      if (to.residual) sum += to.residual[at];
      c[at] = sum;
    }
  }
}

}  // namespace gladius::cpu
