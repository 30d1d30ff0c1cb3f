// Matrix products from panels, after Goto & van de Geijn 2008 ("Anatomy of high-performance matrix
// multiplication") and BLIS (Van Zee & van de Geijn 2015), and products of few rows.
#pragma once

#include "kernels/cpu/float_kernels.h"
#include "kernels/cpu/pack-inl.h"
#include "kernels/cpu/register_tile-inl.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/widened-inl.h"

namespace gladius::cpu {

// The register tile for rows of A that are read where they lie. It may have fewer of them than that for
// packed rows, each used for more columns.
template <class Isa>
struct InPlaceTile : Isa {
  static constexpr int gemm_rows = Isa::in_place_rows, gemm_vectors = Isa::in_place_vectors;
};

// What register tiles read of A: panels that are packed before, or A where it lies, contiguous along k (rows)
// or across it (lines).
enum class Reads { packed, rows, lines };

// How B is packed may differ from A's panels, if its words are the same then.
template <class Isa, class Panels, Reads reads, class PanelsOfB = Panels>
struct Gemm {
  static_assert(Isa::gemm_rows <= gemm_most_rows && Panels::word_floats <= Panels::per_word);
  static_assert(reads == Reads::packed || Panels::plain);
  static_assert(Isa::gemm_vectors <= most_tile_vectors);
  static_assert(packed_elements<Panels> == packed_elements<typename Panels::Words>);
  static constexpr int64_t cols = Isa::gemm_vectors * lanes<Isa>;
  using Pack = Packing<Isa, Panels>;
  using PackB = Packing<Isa, PanelsOfB>;
  // Of several tiles none is lower than half a vector, as pack_lines needs.
  static_assert(reads != Reads::packed || 2 * (Isa::gemm_rows / 2 + 1) >= Pack::side);
  static_assert(Panels::per_word == PanelsOfB::per_word && Panels::word_floats == PanelsOfB::word_floats);
  // Packed rows of A and a panel of B for them nearly fit into the nearest cache together. For lines of A it
  // is the same: whether they are packed depends on the machine's cache, in which order products are added
  // may not.
  static constexpr int64_t usual_k =
      reads == Reads::rows ? Isa::rows_k : gemm_packed_k * packed_elements<Panels>;

  // For a block of the summed dimension at a time. B is packed, to stay in the second-level cache while
  // groups of rows of A pass by it; few rows are one group, which stays there while panels of B pass by it.
  static void run(const GemmTask& t) {
    const Work work(t);
    for (int64_t p = 0; p < t.k || p == 0; p += work.block_k)
      for (int64_t group = 0; group < work.groups; ++group) multiply_group(t, work, p, group);
  }

  static constexpr GemmKernel kernel() {
    return {run, reads == Reads::packed, Isa::gemm_rows, cols, usual_k, packed_elements<Panels>};
  }

 private:
  // Whole plain panels of what lies in lines, and those of a weight that lies in panels, are made by the
  // first tile that reads these; of a weight if it has as many rows as tiles can have.
  static constexpr bool copies = PanelsOfB::plain;
  static constexpr bool copies_weight = reads == Reads::rows && requires { typename PanelsOfB::Line; };

  // Where both factors lie in lines, each can be the one that vectors are read of: A for so few columns,
  // which takes less time unless there are as few rows.
  static constexpr bool can_be_in_lines = reads != Reads::rows && Panels::plain && PanelsOfB::plain;
  static constexpr int64_t narrow_cols = lanes<Isa> / 2;
  static_assert(narrow_cols <= Isa::gemm_rows);

  // How a task's rows are cut, into register tiles of equal height rather than full ones and a rest, and
  // these into groups that pass by all panels of B in turn.
  struct Work {
    int64_t rows, height, tiles, block_k, groups;
    float *a, *b;
    explicit Work(const GemmTask& t)
        : rows(t.rows),
          height(ceil_div(rows, ceil_div(rows, Isa::gemm_rows))),
          tiles(ceil_div(rows, height)),
          block_k(gemm_block_k(t.k, usual_k)),
          groups(gemm_one_group(rows, block_k / packed_elements<Panels>)
                     ? 1
                     : larger(1, tiles / gemm_group_panels)),
          a(t.scratch),
          b(t.scratch + gemm_packed_a_floats) {}
    // Where a group begins; that of `groups` is the end.
    int64_t row(int64_t group) const { return smaller(rows, group * tiles / groups * height); }
  };

  // What tiles ask for before it is used, and perhaps a little beyond: pieces as wide as a tile,
  // packed_elements every tile_unroll words. `down` of them, `step` apart, are followed by as many from
  // `across` on, and so on.
  struct Ahead {
    const float* data = nullptr;
    int64_t down = 0, step = 0, pieces = 0, across = 0;

    // n values of i and k of p; k counts a weight's words. A weight's panels lie in one stream each.
    static Ahead of(const GemmOperand& x, int64_t n, int64_t k) {
      if (x.panels) {
        const float* const first = x.data + x.row / panel_rows * x.stride + x.line * panel_rows;
        const int64_t down = ceil_div(k * panel_rows, cols);
        return {first, down, cols, down * ceil_div(n, panel_rows), x.stride};
      }
      const int64_t lines = x.k_contiguous ? n : k, width = x.k_contiguous ? k : n;
      return {x.data, lines, x.stride, lines * ceil_div(width, cols), cols};
    }

    // Makes the tile-th of tiles over so many words ask for its share; false if all has been asked for.
    bool set(int64_t tile, int64_t words, TileFactors& f) const {
      const int64_t piece = tile * (words / tile_unroll) * packed_elements<Panels>;
      if (piece >= pieces) return false;
      f.ahead = data + piece / down * across + piece % down * step;
      f.ahead_step = step;
      f.ahead_left = down - piece % down;
      f.ahead_down = down;
      f.ahead_across = across;
      return true;
    }
  };

  // Where a thread is in its task: a group of rows, by columns from j on, summed from p on.
  struct Place {
    int64_t p, group, j;
  };

  // The next group of rows of A: of this task, or the first one of the next task.
  static Ahead next_a(const GemmTask& t, const Work& work, Place at) {
    const bool more = at.group + 1 < work.groups;
    const int64_t group = more ? at.group + 1 : 0, p = more ? at.p : at.p + work.block_k;
    const int64_t i = work.row(group), rows = work.row(group + 1) - i;
    if (p < t.k) return Ahead::of(t.a.from(i, p), rows, smaller(work.block_k, t.k - p));
    return t.next ? Ahead::of(t.next->a, smaller(rows, t.next->rows), smaller(work.block_k, t.k)) : Ahead{};
  }
  // The panel of B that is packed next, if that is done before the next group of rows.
  static Ahead next_b(const GemmTask& t, const Work& work, Place at) {
    constexpr int64_t per = PanelsOfB::per_float;
    const bool more = at.j + cols < t.cols;
    if (at.group != (more ? 0 : work.groups - 1)) return {};
    const int64_t j = more ? at.j + cols : 0, p = more ? at.p : at.p + work.block_k;
    if (p < t.k) {
      const bool lines = reads == Reads::rows && !t.b.k_contiguous && j > 0;
      const int64_t from = j + (lines ? shared_with_last(t.b.stride) : 0);
      return Ahead::of(t.b.from(from, p / per), smaller(cols, t.cols - j),
                       smaller(work.block_k, t.k - p) / per);
    }
    return t.next ? Ahead::of(t.next->b, smaller(cols, t.next->cols), smaller(work.block_k, t.k) / per)
                  : Ahead{};
  }

  static void multiply_group(const GemmTask& t, const Work& work, int64_t p, int64_t group) {
    const int64_t k = smaller(work.block_k, t.k - p), i0 = work.row(group), rows = work.row(group + 1) - i0;
    if (reads == Reads::packed) Pack::pack(t.a.from(i0, p), rows, t.rows - i0, k, work.height, work.a);
    int64_t asking_for_a = 0;  // tiles so far
    for (int64_t j = 0; j < t.cols; j += cols) {
      if constexpr (can_be_in_lines) {
        if (!t.a.k_contiguous && !t.b.k_contiguous && t.cols - j <= narrow_cols) {
          multiply_narrow(t, work, {p, group, j}, asking_for_a);
          break;
        }
      }
      multiply_panel(t, work, {p, group, j}, asking_for_a);
    }
  }

  // The group's rows by the last few columns: their transpose, by tiles of few rows, since a tile of few
  // columns takes as long as one of a whole vector of them. Sums are the same.
  static void multiply_narrow(const GemmTask& t, const Work& work, Place at, int64_t& asking_for_a) {
    const int64_t k = smaller(work.block_k, t.k - at.p), end = work.row(at.group + 1), n = t.cols - at.j;
    const GemmOperand b = t.b.from(at.j, at.p);
    const TileStore to{at.p > 0 || t.add, at.p + k >= t.k ? t.residual : nullptr};
    const Ahead a_ahead = next_a(t, work, at), b_ahead = next_b(t, work, at);
    int64_t tile = 0;
    for (int64_t i = work.row(at.group); i < end; i += cols, ++tile) {
      const GemmOperand a = t.a.from(i, at.p);
      const int64_t rows = smaller(cols, end - i), whole = Pack::whole_lines(a.stride, rows, t.rows - i, k);
      if (whole < k) Pack::pack(a.from(0, whole), rows, t.rows - i, k - whole, cols, work.a);
      TileFactors f{.k = k, .a = b.data, .a_row = 1, .a_step = b.stride, .b = a.data, .b_step = a.stride};
      f.last_words = k - whole, f.last_b = work.a, f.last_step = cols;
      if (!b_ahead.set(tile, k, f)) a_ahead.set(asking_for_a++, k, f);
      float sums[narrow_cols * cols];
      const auto each = [&](auto act) {
        for (int64_t r = 0, c = i * t.c_stride + at.j; r < rows; ++r, c += t.c_stride)
          for (int64_t j = 0; j < n; ++j) act(c + j, sums[j * cols + r]);
      };
      if (to.add) each([&](int64_t c, float& sum) { sum = t.c[c]; });
      multiply_tile<Isa, typename Panels::Words, false>(n, rows, f, sums, cols, {to.add, nullptr});
      each([&](int64_t c, float sum) { t.c[c] = to.residual ? sum + to.residual[c] : sum; });
    }
  }

  // The group's rows by one panel of B, which is packed just before its first use or by the first tile.
  static void multiply_panel(const GemmTask& t, const Work& work, Place at, int64_t& asking_for_a) {
    const int64_t k = smaller(work.block_k, t.k - at.p), words = Pack::words(k);
    const int64_t i0 = work.row(at.group), rows = work.row(at.group + 1) - i0;
    const int64_t width = smaller(cols, t.cols - at.j);
    const int64_t floats = words * Panels::word_floats, tiles = ceil_div(rows, work.height);
    // With one group only, a panel has done its work before the next one comes.
    float* const panel = work.b + (work.groups == 1 ? 0 : at.j * floats);
    const GemmOperand b = t.b.from(at.j, at.p / PanelsOfB::per_float);
    // A line of the panel holds whole vectors; those of B are read where they lie, but for the last ones.
    const int64_t line = ceil_div(width, lanes<Isa>) * lanes<Isa>, readable = t.cols - at.j;
    const bool in_lines = copies && at.group == 0 && !b.k_contiguous;
    const int64_t whole = in_lines ? PackB::whole_lines(b.stride, width, readable, k) : 0;
    float* const rest = panel + whole * line;
    const bool in_panels =
        copies_weight && tiles > 1 && at.group == 0 && b.panels && work.height == Isa::gemm_rows;
    if (at.group == 0 && whole < k && !in_panels)
      PackB::pack(b.from(0, whole), width, readable, k - whole, line, rest);
    const Ahead a_ahead = next_a(t, work, at), b_ahead = next_b(t, work, at);
    const TileStore to{at.p > 0 || t.add, at.p + k >= t.k ? t.residual : nullptr};
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t i = tile * work.height, c = (i0 + i) * t.c_stride + at.j;
      TileFactors f{words,
                    reads == Reads::packed ? work.a + i * floats : t.a.from(i0 + i, at.p).data,
                    reads == Reads::rows ? t.a.stride : Panels::word_floats,
                    reads == Reads::packed  ? work.height * Panels::word_floats
                    : reads == Reads::lines ? t.a.stride
                                            : 1,
                    panel,
                    line * Panels::word_floats};
      // What one tile alone reads is not copied.
      if (in_lines && tile == 0) {
        f.b = b.data, f.b_step = b.stride, f.copy = tiles > 1 ? panel : nullptr;
        f.last_words = k - whole, f.last_b = rest, f.last_step = line;
      }
      if (in_panels && tile == 0) take_weight(b, width, panel, f);
      if (!b_ahead.set(tile, words, f)) a_ahead.set(asking_for_a++, words, f);
      const TileStore store{to.add, to.residual ? to.residual + c : nullptr};
      multiply(smaller(work.height, rows - i), width, f, t.c + c, t.c_stride, store);
    }
  }

  // Makes a tile read the weight b itself.
  static void take_weight(const GemmOperand& b, int64_t width, float* panel, TileFactors& f) {
    if constexpr (copies_weight) {
      using Line = typename PanelsOfB::Line;
      f.b = panel_place<Line>(b, 0), f.b_step = panel_rows, f.copy = panel, f.weight = true;
      for (int64_t j = 0; j * lanes<Isa> < width; ++j)
        f.b_vectors[j] = panel_place<Line>(b, j * lanes<Isa>) - f.b;
    }
  }

  static GLADIUS_INLINE void multiply(int64_t rows, int64_t width, const TileFactors& f, float* c,
                                      int64_t c_stride, TileStore to) {
    using Words = typename Panels::Words;
    constexpr bool strided = reads == Reads::rows;
    if constexpr (copies_weight) {
      if (f.weight)
        return multiply_weight_tile<Isa, Words, FromWeight<typename PanelsOfB::Line>>(width, f, c, c_stride,
                                                                                      to);
    }
    if constexpr (copies) {
      if (f.copy) return multiply_tile<Isa, Words, strided, FromLines>(rows, width, f, c, c_stride, to);
    }
    multiply_tile<Isa, Words, strided>(rows, width, f, c, c_stride, to);
  }
};

// One row of A by lines of B, some at a time, which are read once and as they lie: C += a_p B_p.
template <class Isa>
struct OneRow {
  using V = Vec<Isa>;
  static constexpr int64_t w = lanes<Isa>;

  static void run(const GemmTask& t) {
    constexpr int lines = Isa::registers >= 32 ? 16 : 12;
    int64_t p = 0;
    for (; p + lines <= t.k; p += lines) add_lines<lines>(t, p);
    for (; p + 4 <= t.k; p += 4) add_lines<4>(t, p);
    for (; p < t.k || p == 0; ++p) t.k == 0 ? add_lines<0>(t, p) : add_lines<1>(t, p);
  }

  // Nothing is packed: any width will do.
  static constexpr GemmKernel kernel() { return {run, false, 1, floats_per_line, 2, 1}; }

 private:
  // Begins with what C has to begin with, and ends with the residual.
  template <int Lines>
  static void add_lines(const GemmTask& t, int64_t p) {
    const bool starts = p == 0 && !t.add, ends = p + Lines >= t.k && t.residual;
    V a[Lines + 1];
    for (int i = 0; i < Lines; ++i) a[i] = V(t.a.data[p + i]);
    const float* const b = t.b.from(0, p).data;
    const auto vector = [&](int64_t j, auto fetch, auto put) __attribute__((always_inline)) {
      V sum = starts ? V(0.0f) : fetch(t.c + j);
#pragma GCC unroll 16
      for (int i = 0; i < Lines; ++i) sum = Isa::fma(a[i], fetch(b + i * t.b.stride + j), sum);
      if (ends) sum = sum + fetch(t.residual + j);
      put(t.c + j, sum);
    };
    int64_t j = 0;
    for (; j + w <= t.cols; j += w) vector(j, load<Isa>, store<Isa>);
    const int64_t rest = t.cols - j;
    if (rest > 0)
      vector(
          j, [rest](const float* x) { return load_first<Isa>(x, rest); },
          [rest](float* y, V v) { store_first<Isa>(y, v, rest); });
  }
};

// Products of at most few_rows rows, which read B, elements of `type`, once and as it lies.
template <class Isa, DType type = DType::F32>
struct FewRows {
  using V = Vec<Isa>;
  using Elements = Widened<Isa, type>;
  static constexpr int64_t w = lanes<Isa>;

  static void run(const FewRowsTile& t) { functions[t.rows - 1](t); }

 private:
  // As many as their sums, the fewer vectors of both factors and one of the other have registers for.
  static constexpr int columns_at_once(int rows) {
    if (rows == 1) return 4;  // streams that memory brings well (prefetch_stream)
    for (const int columns : {8, 4, 3, 2})
      if (rows * columns + (rows < columns ? rows : columns) + 1 <= Isa::registers) return columns;
    return 1;
  }

  // R rows of A against Columns rows of B, `apart` rows from one to the next, at once: each vector of A or B
  // is loaded once for several products.
  template <int R, int Columns>
  static void block(const FewRowsTile& t, int64_t column, int64_t apart) {
    V sums[R][Columns];
    for (int i = 0; i < R; ++i)
      for (int j = 0; j < Columns; ++j) sums[i][j] = V(0.0f);
    const std::byte* b[Columns];
    for (int j = 0; j < Columns; ++j) b[j] = t.b + (column + j * apart) * t.b_stride;
    const auto step = [&](auto fetch_a, auto fetch_b) {  // holds the fewer vectors of both
      constexpr bool hold_rows = R <= Columns;
      V held[hold_rows ? R : Columns];
#pragma GCC unroll 8
      for (int i = 0; i < (hold_rows ? R : Columns); ++i)
        held[i] = hold_rows ? fetch_a(t.a + i * t.a_stride) : fetch_b(b[i]);
#pragma GCC unroll 8
      for (int j = 0; j < (hold_rows ? Columns : R); ++j) {
        const V x = hold_rows ? fetch_b(b[j]) : fetch_a(t.a + j * t.a_stride);
#pragma GCC unroll 8
        for (int i = 0; i < (hold_rows ? R : Columns); ++i) {
          V& sum = hold_rows ? sums[i][j] : sums[j][i];
          sum = accumulate<Isa>(held[i], x, sum);
        }
      }
    };
    int64_t p = 0;
    for (; p + w <= t.k; p += w) {
      if ((R == 1 || one_stream) && p * Elements::bytes % cache_line == 0) {
#pragma GCC unroll 8
        for (int j = 0; j < Columns; ++j) {
          const std::byte* const x = b[j] + p * Elements::bytes;
          one_stream ? prefetch_ahead<cache_line>(x) : prefetch_stream(x);
        }
      }
      step([p](const float* x) { return load<Isa>(x + p); },
           [p](const std::byte* x) { return Elements::load(x + p * Elements::bytes); });
    }
    if (p < t.k)
      step([p, &t](const float* x) { return load_first<Isa>(x + p, t.k - p); },
           [p, &t](const std::byte* x) { return Elements::load_first(x + p * Elements::bytes, t.k - p); });
    float totals[R * Columns + w];
    reduce_add<Isa, R * Columns>(&sums[0][0], totals);
    for (int i = 0; i < R; ++i) {
      for (int j = 0; j < Columns; ++j) {
        const int64_t c = i * t.c_stride + column + j * apart;
        float sum = totals[i * Columns + j];
        if (t.add) sum += t.c[c];
        if (t.residual) sum += t.residual[c];
        t.c[c] = sum;
      }
    }
  }

  // Columns that are computed together are far apart: B is read in as many streams (prefetch_stream), unless
  // its rows are short ones of 16 bits (keys), which are neighbours.
  static constexpr bool one_stream = type != DType::F32;
  template <int R>
  static void of_rows(const FewRowsTile& t) {
    constexpr int columns = columns_at_once(R);
    const int64_t stream = t.cols / columns;
    for (int64_t j = 0; j < stream; ++j)
      one_stream ? block<R, columns>(t, columns * j, 1) : block<R, columns>(t, j, stream);
    for (int64_t j = columns * stream; j < t.cols; ++j) block<R, 1>(t, j, 0);
  }

  static constexpr void (*functions[few_rows])(const FewRowsTile&) = {
      &of_rows<1>, &of_rows<2>, &of_rows<3>, &of_rows<4>, &of_rows<5>, &of_rows<6>, &of_rows<7>, &of_rows<8>};
};

}  // namespace gladius::cpu
