// The innermost loop of matrix products: a tile of accumulators in registers walks the summed dimension.
#pragma once

#include <utility>

#include "kernels/cpu/float_kernels.h"
#include "kernels/cpu/panel_line-inl.h"
#include "kernels/cpu/simd.h"

namespace gladius::cpu {

// How the factors of a product are held in panels: as words as large as `word_floats` floats, each with
// `per_word` neighbours along the summed dimension. F32 panels hold the floats themselves: they are `plain`.
// `per_float`: elements in the place of a float where they lie before they are packed, 2 for 16-bit ones.
template <class Isa>
struct F32Panels {
  using V = Vec<Isa>;
  using Words = F32Panels;  // what register tiles multiply
  static constexpr int64_t word_floats = 1, per_word = 1, per_float = 1;
  static constexpr bool plain = true;
  // Words from what is contiguous along the summed dimension, a vector of them.
  static GLADIUS_INLINE V along(const float* x) { return load<Isa>(x); }
  // A word each from columns that are contiguous across it; its lines are `stride` apart.
  static GLADIUS_INLINE V across(const float* x, int64_t) { return load<Isa>(x); }
  using Line = PanelLine<Isa, DType::F32>;  // of a weight that lies in panels already
  // Adds per_word products to each lane of a sum.
  static GLADIUS_INLINE V multiply_add(V a, V b, V sum) { return accumulate<Isa>(a, b, sum); }
};

// How many elements are packed in a float.
template <class Panels>
inline constexpr int64_t packed_elements = Panels::per_word / Panels::word_floats;

// What happens to a register tile's sums: C is added to rather than overwritten; residual (stride as C) is
// added when not null.
struct TileStore {
  bool add;
  const float* residual;
};

// Where a register tile has its columns from: a panel; lines of B that lie apart, which it copies into a
// panel as it passes them; or a weight in panels, whose lines it reads as a Line does and copies likewise.
struct FromPanel {
  static constexpr bool copies = false, weight = false;
  static constexpr int words = 1;  // of a line
};
struct FromLines : FromPanel {
  static constexpr bool copies = true;
};
template <class LineType>
struct FromWeight : FromLines {
  using Line = LineType;
  static constexpr bool weight = true;
  static constexpr int words = Line::words;
};

inline constexpr int most_tile_vectors = 3;

// The factors of a register tile's product, k words long: word (i, p) of A is at a + i * a_row + p * a_step,
// line p of B at b + p * b_step.
struct TileFactors {
  int64_t k;
  const float* a;
  int64_t a_row, a_step;
  const float* b;
  int64_t b_step;
  float* copy = nullptr;  // a panel for the lines of B, which a copying tile makes as it passes them
  bool weight = false;    // B is a weight in panels,
  int64_t b_vectors[most_tile_vectors] = {};  // the tile's vectors are so far from b
  // The last few lines of B where these lie elsewhere.
  int64_t last_words = 0;
  const float* last_b = nullptr;
  int64_t last_step = 0;
  // What will be needed later: packed_elements pieces as wide as the tile are asked for every tile_unroll
  // words, ahead_step from one to the next; after ahead_left of them it is ahead_across on from the one
  // ahead_down before.
  const float* ahead = nullptr;
  int64_t ahead_step = 0, ahead_left = 0, ahead_down = 0, ahead_across = 0;
};

inline constexpr int tile_unroll = 8;

// Where lines are uneven, neighbouring tiles share a cache line of each, which came for the one before: what
// a tile that does not ask for the last element (fetch_line) asks for begins so much later, to end with it.
__attribute__((always_inline)) constexpr int64_t shared_with_last(int64_t stride) {
  return stride % floats_per_line == 0 ? 0 : floats_per_line - 1;
}

// How a register tile walks the summed dimension. In a panel or a transpose the rows of A are neighbours
// (a_row is 1 word); otherwise they are Strided, and their words neighbours (a_step is 1 word). Specialised
// for panels whose multiply_add makes more of two vectors than products lane by lane.
template <class Isa, class Panels, int R, int Vectors, bool Strided, class Source>
struct TileWalk {
  using V = Vec<Isa>;
  static constexpr int held = R;                           // rows of sums in registers
  static constexpr int bases = Strided ? (R + 2) / 3 : 1;  // row i is at a[i / 3], 0 to 2 rows on
  // Lines of B are asked for into the nearest cache: those that lie apart, and a panel's of floats where they
  // fill cache lines.
  static constexpr bool asks_for_lines =
      !Source::weight && (Source::copies || (Panels::plain && Vectors * lanes<Isa> >= floats_per_line));

  const float* a[bases];
  const float* b;
  float* copy;
  int64_t a_row, a_step, b_step;
  int64_t b_vectors[Vectors];  // only of a weight

  explicit GLADIUS_INLINE TileWalk(const TileFactors& f)
      : b(f.b),
        copy(f.copy),
        a_row(Strided ? f.a_row : 1),
        a_step(Strided ? Panels::word_floats : f.a_step),
        b_step(f.b_step) {
    for (int i = 0; i < bases; ++i) a[i] = f.a + 3 * i * f.a_row;
    if (Source::weight)
      for (int j = 0; j < Vectors; ++j) b_vectors[j] = f.b_vectors[j];
  }

  // Adds the products of the next Words words. The rows of A are asked for a cache line ahead.
  template <int Words>
  GLADIUS_INLINE void multiply(V (&sums)[held][Vectors]) {
#pragma GCC unroll 8
    for (int word = 0; word < Words; ++word) {
      V columns[Vectors];
#pragma GCC unroll 8
      for (int j = 0; j < Vectors; ++j) columns[j] = column(j, word);
      if constexpr (asks_for_lines) {
#pragma GCC unroll 8
        for (int64_t j = 0; j < Vectors * lanes<Isa>; j += floats_per_line) {
          __builtin_prefetch(b + j + tile_unroll * (Source::copies ? b_step : Vectors * lanes<Isa>));
          if constexpr (Source::copies) __builtin_prefetch(copy + j + tile_unroll * Vectors * lanes<Isa>, 1);
        }
      }
      if constexpr (Source::copies) {
#pragma GCC unroll 8
        for (int j = 0; j < Vectors; ++j, copy += lanes<Isa>) store<Isa>(copy, columns[j]);
      }
      if constexpr (Strided && Words > 1) {
#pragma GCC unroll 8
        for (int i = word; i < R; i += Words) __builtin_prefetch(row(i) + floats_per_line);
      }
#pragma GCC unroll 64
      for (int i = 0; i < R; ++i) {
        const V x(row(i)[Strided ? word : 0]);
#pragma GCC unroll 8
        for (int j = 0; j < Vectors; ++j) sums[i][j] = Panels::multiply_add(x, columns[j], sums[i][j]);
      }
      if (!Strided) a[0] += a_step;
      if ((word + 1) % Source::words == 0) b += b_step;
      // New to the compiler after each word: it would otherwise keep many sums of steps, on the stack.
      __asm__("" : "+r"(a_row), "+r"(b));
    }
    if constexpr (Strided) {
#pragma GCC unroll 16
      for (int i = 0; i < bases; ++i) a[i] += Words;
    }
  }

  // Makes sums[i] row i of the tile.
  static GLADIUS_INLINE void finish(V (&)[held][Vectors]) {}

 private:
  GLADIUS_INLINE V column(int j, int word) const {
    if constexpr (Source::weight)
      return Source::Line::word(b + b_vectors[j], word % Source::words);
    else
      return load<Isa>(b + j * lanes<Isa>);
  }
  GLADIUS_INLINE const float* row(int i) const { return Strided ? a[i / 3] + i % 3 * a_row : a[0] + i; }
};

// C[R, cols] (+)= A·B (+ residual); cols make Vectors vectors, of which the last need not be full.
template <class Isa, class Panels, int R, int Vectors, bool Strided, class Source>
struct RegisterTile {
  using V = Vec<Isa>;
  using Walk = TileWalk<Isa, Panels, R, Vectors, Strided, Source>;

  static void run(const TileFactors& f, int64_t cols, float* c, int64_t c_stride, TileStore to) {
    V sums[Walk::held][Vectors];
#pragma GCC unroll 64
    for (int i = 0; i < Walk::held; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < Vectors; ++j) sums[i][j] = V(0.0f);
    Walk walk(f);
    const float* ahead = f.ahead ? f.ahead : f.b;  // b: a line that is there anyway
    // C's rows, too, come while others are multiplied, late enough to be still there when they are needed.
    const float* line = c + (Strided ? shared_with_last(c_stride) : 0);
    const int64_t first_line = f.k - (R + 12) * tile_unroll;
    const float* const end_line = line + R * c_stride;
    int64_t p = 0, ahead_left = f.ahead_left;
    const int64_t in_place = f.k - f.last_words;
    for (; p + tile_unroll <= in_place; p += tile_unroll) {
      if (p >= first_line && line != end_line) {
        fetch_line<true>(line);
        line += c_stride;
      }
      for (int piece = 0; piece < packed_elements<Panels>; ++piece) {
        fetch_line<false>(ahead);
        ahead += f.ahead_step;
        if (--ahead_left == 0) {
          ahead += f.ahead_across - f.ahead_down * f.ahead_step;
          ahead_left = f.ahead_down;
        }
      }
      walk.template multiply<tile_unroll>(sums);
    }
    for (; p < f.k; p += Source::words) {
      if (p == in_place) walk.b = f.last_b, walk.b_step = f.last_step;
      walk.template multiply<Source::words>(sums);
    }
    Walk::finish(sums);
    if (cols == Vectors * lanes<Isa>)
      store_sums(sums, lanes<Isa>, c, c_stride, to);
    else
      store_sums(sums, cols % lanes<Isa>, c, c_stride, to);
  }

 private:
  // `last` elements of each row's last vector.
  static GLADIUS_INLINE void store_sums(const V (&sums)[Walk::held][Vectors], int64_t last, float* c,
                                        int64_t c_stride, TileStore to) {
#pragma GCC unroll 64
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < Vectors; ++j) {
        const int64_t at = i * c_stride + j * lanes<Isa>, n = j < Vectors - 1 ? lanes<Isa> : last;
        V sum = sums[i][j];
        if (to.add) sum = sum + load_upto<Isa>(c + at, n);
        if (to.residual) sum = sum + load_upto<Isa>(to.residual + at, n);
        store_upto<Isa>(c + at, sum, n);
      }
    }
  }

  // What is not aligned may end in a cache line more: the last element, too, but for tiles that read rows of
  // A in place, which it would make slower where all is aligned.
  template <bool Write>
  static GLADIUS_INLINE void fetch_line(const float* x) {
    constexpr int n = Vectors * static_cast<int>(lanes<Isa>);
    const auto fetch = [](const float* at) __attribute__((always_inline)) {
      Write ? __builtin_prefetch(at, 1) : __builtin_prefetch(at, 0, 2);
    };
#pragma GCC unroll 8
    for (int j = 0; j < n; j += floats_per_line) fetch(x + j);
    if constexpr (!Strided) fetch(x + n - 1);
  }
};

using RegisterTileFunction = void (*)(const TileFactors&, int64_t, float*, int64_t, TileStore);

// register_tiles<Isa, Panels, Strided, Source>.of[v - 1][R - 1] computes R rows of v vectors.
template <class Isa>
struct RegisterTileTable {
  RegisterTileFunction of[Isa::gemm_vectors][Isa::gemm_rows];
};
template <class Isa, class Panels, bool Strided, class Source, size_t... I>
constexpr RegisterTileTable<Isa> make_register_tiles(std::index_sequence<I...>) {
  constexpr size_t rows = Isa::gemm_rows;
  return {{&RegisterTile<Isa, Panels, static_cast<int>(I % rows) + 1, static_cast<int>(I / rows) + 1, Strided,
                         Source>::run...}};
}
template <class Isa, class Panels, bool Strided, class Source>
inline constexpr RegisterTileTable<Isa> register_tiles = make_register_tiles<Isa, Panels, Strided, Source>(
    std::make_index_sequence<size_t{Isa::gemm_vectors} * Isa::gemm_rows>());

// Computes `rows` × `cols` elements of C, at most a register tile, by the narrowest tile that does. Lines of
// B must be readable as whole vectors.
template <class Isa, class Panels, bool Strided, class Source = FromPanel>
GLADIUS_INLINE void multiply_tile(int64_t rows, int64_t cols, const TileFactors& f, float* c,
                                  int64_t c_stride, TileStore to) {
  const auto& table = register_tiles<Isa, Panels, Strided, Source>;
  table.of[(cols - 1) / lanes<Isa>][rows - 1](f, cols, c, c_stride, to);
}

// The same for a weight in panels by a tile of all rows that an instruction set's tiles have. There is no
// other, to keep programs small: where tiles are lower, a weight is packed first.
template <class Isa>
struct WeightTileTable {
  RegisterTileFunction of[Isa::gemm_vectors];
};
template <class Isa, class Panels, class Source, size_t... I>
constexpr WeightTileTable<Isa> make_weight_tiles(std::index_sequence<I...>) {
  return {{&RegisterTile<Isa, Panels, Isa::gemm_rows, static_cast<int>(I) + 1, true, Source>::run...}};
}
template <class Isa, class Panels, class Source>
inline constexpr WeightTileTable<Isa> weight_tiles =
    make_weight_tiles<Isa, Panels, Source>(std::make_index_sequence<size_t{Isa::gemm_vectors}>());
template <class Isa, class Panels, class Source>
GLADIUS_INLINE void multiply_weight_tile(int64_t cols, const TileFactors& f, float* c, int64_t c_stride,
                                         TileStore to) {
  weight_tiles<Isa, Panels, Source>.of[(cols - 1) / lanes<Isa>](f, cols, c, c_stride, to);
}

}  // namespace gladius::cpu
