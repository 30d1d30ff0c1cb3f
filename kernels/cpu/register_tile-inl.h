// The innermost loop of matrix products: a tile of accumulators in registers walks the summed dimension.
#pragma once

#include <utility>

#include "kernels/cpu/float_kernels.h"
#include "kernels/cpu/simd.h"

namespace gladius::cpu {

// How the factors of a product are held in panels: as words as large as `word_floats` floats, each with
// `per_word` neighbours along the summed dimension. F32 panels hold the floats themselves.
template <class Isa>
struct F32Panels {
  using V = Vec<Isa>;
  using Words = F32Panels;  // what register tiles multiply
  static constexpr int64_t word_floats = 1, per_word = 1;
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
};

// The sums of a register tile and how they walk the summed dimension. In a panel or a transpose the rows of A
// are neighbours (a_row is 1 word); otherwise they are Strided. Specialised for panels whose multiply_add
// makes more of two vectors than products lane by lane.
template <class Isa, class Panels, int R, bool Strided>
struct TileLoop {
  using V = Vec<Isa>;
  static constexpr int vectors = Isa::gemm_vectors;
  static constexpr int held = R;                           // rows of sums in registers
  static constexpr int bases = Strided ? (R + 2) / 3 : 1;  // row i is at bases[i / 3], 0 to 2 rows on

  // Adds the products of the words [begin, begin + steps).
  static GLADIUS_INLINE void multiply(const TileFactors& f, int64_t begin, int64_t steps,
                                      V (&sums)[held][vectors]) {
    const float* a[bases];
    for (int i = 0; i < bases; ++i) a[i] = f.a + 3 * i * f.a_row + begin * f.a_step;
    const int64_t a_row = Strided ? f.a_row : 1, a_step = f.a_step, b_step = f.b_step;
    const float* b = f.b + begin * b_step;
    for (int64_t p = 0; p < steps; ++p, b += b_step) {
      V columns[vectors];
#pragma GCC unroll 8
      for (int j = 0; j < vectors; ++j) columns[j] = load<Isa>(b + j * lanes<Isa>);
#pragma GCC unroll 64
      for (int i = 0; i < R; ++i) {
        const V row(Strided ? a[i / 3][i % 3 * a_row] : a[0][i]);
#pragma GCC unroll 8
        for (int j = 0; j < vectors; ++j) sums[i][j] = Panels::multiply_add(row, columns[j], sums[i][j]);
      }
#pragma GCC unroll 16
      for (int i = 0; i < bases; ++i) a[i] += a_step;
    }
  }

  // Makes sums[i] row i of the tile.
  static GLADIUS_INLINE void finish(V (&)[held][vectors]) {}
};

// C[R, gemm_cols] (+)= A·B (+ residual).
template <class Isa, class Panels, int R, bool Strided>
struct RegisterTile {
  using V = Vec<Isa>;
  using Loop = TileLoop<Isa, Panels, R, Strided>;
  static constexpr int vectors = Isa::gemm_vectors;

  static void run(const TileFactors& f, float* c, int64_t c_stride, TileStore to) {
    V sums[Loop::held][vectors];
#pragma GCC unroll 64
    for (int i = 0; i < Loop::held; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < vectors; ++j) sums[i][j] = V(0.0f);
    // C is asked for early, some rows at a time: its lines come while others are multiplied.
    const int64_t parts = f.k < 64 ? 1 : f.k < 224 ? f.k / 32 : 7, steps = f.k / parts;
    const int64_t rows = (R + parts - 1) / parts;
    for (int64_t part = 0; part < parts; ++part) {
      for (int64_t i = part * rows; i < R && i < (part + 1) * rows; ++i) {
        for (int64_t j = 0; j < vectors * lanes<Isa>; j += floats_per_line)
          __builtin_prefetch(c + i * c_stride + j, 1);
      }
      const int64_t begin = part * steps;
      Loop::multiply(f, begin, part + 1 < parts ? steps : f.k - begin, sums);
    }
    Loop::finish(sums);
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
};

using RegisterTileFunction = void (*)(const TileFactors&, float*, int64_t, TileStore);

// register_tiles<Isa, Panels, Strided>.of_rows[R - 1] computes R rows.
template <class Isa>
struct RegisterTileTable {
  RegisterTileFunction of_rows[Isa::gemm_rows];
};
template <class Isa, class Panels, bool Strided, size_t... I>
constexpr RegisterTileTable<Isa> make_register_tiles(std::index_sequence<I...>) {
  return {{&RegisterTile<Isa, Panels, static_cast<int>(I) + 1, Strided>::run...}};
}
template <class Isa, class Panels, bool Strided>
inline constexpr RegisterTileTable<Isa> register_tiles =
    make_register_tiles<Isa, Panels, Strided>(std::make_index_sequence<Isa::gemm_rows>());

// Computes `rows` × `cols` elements of C, at most a register tile. Where they are fewer columns, the tile is
// computed whole, aside, and its columns within C are copied out: lines of B must be readable as whole ones.
template <class Isa, class Panels, bool Strided>
GLADIUS_INLINE void multiply_tile(int64_t rows, int64_t cols, const TileFactors& f, float* c,
                                  int64_t c_stride, TileStore to) {
  constexpr int64_t tile_cols = Isa::gemm_vectors * lanes<Isa>;
  const RegisterTileFunction multiply = register_tiles<Isa, Panels, Strided>.of_rows[rows - 1];
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
