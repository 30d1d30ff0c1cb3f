// Products with quantised weights. Sums of products of codes are exact integers; blocks are added in order in
// float32, as reference::dot_row defines, so that all ways below, and all instruction sets, give the same
// bits:
//   rows    a few activations by weights as they lie in a file: a row's codes are multiplied in place
//   few     a few activations by panels (weight_panels.h), whose codes are unpacked in registers
//   many    more: codes are unpacked once, for all activations; where weights are rows, by way of panels
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/cpu/quant_formats-inl.h"
#include "kernels/cpu/quant_isa.h"
#include "kernels/cpu/quant_kernels.h"
#include "kernels/cpu/quant_panels-inl.h"
#include "kernels/cpu/quant_row_product-inl.h"
#include "kernels/cpu/quant_rows-inl.h"
#include "kernels/cpu/simd.h"

namespace gladius::cpu {

template <class Isa, DType type>
struct PanelProduct {
  using F = Format<type>;
  using Q = QuantIsa<Isa>;
  using V = Vec<Isa>;
  using I = IntVec<Isa>;
  using Bytes = typename Q::Bytes;
  using Sums = typename Q::Sums;
  using Row = ActivationRow<Isa, type, const std::byte>;
  using Codes = PanelCodes<type>;
  using Factors = PanelFactors<Isa, type>;
  using Block = typename F::Block;
  static constexpr int L = static_cast<int>(lanes<Isa>);
  static constexpr int vectors = static_cast<int>(panel_rows) / L;  // of a panel
  using Line = WordVector<4 * L>;

  // Signed codes may be made unsigned by adding 128.
  static constexpr bool offset = F::is_signed && Q::unsigned_only;
  static constexpr int zero = offset ? 128 : F::zero;
  static constexpr int groups = F::size / F::group, units = F::group / 4;  // of a block, of a group

  static GLADIUS_INLINE Bytes four_codes(const Row& y, int64_t k) {
    int32_t four;
    std::memcpy(&four, y.codes + k, 4);
    return Q::repeat(four);
  }
  // `scale`: those of the group, where products are multiplied by them at once.
  using Scale = typename Factors::Scale;
  static GLADIUS_INLINE void dot(Sums& sum, Bytes w, Bytes y, int step, const Scale* scale) {
    constexpr bool is_signed = F::is_signed && !offset;
    if constexpr (Factors::twice)
      Q::template dot<is_signed, Codes::max_code>(sum, w, y, step, typename Q::Ints(I::load_aligned(scale)));
    else
      Q::template dot<is_signed, Codes::max_code>(sum, w, y, step);
  }
  static GLADIUS_INLINE I total(const Sums& sum, const Scale* scale) {
    if constexpr (Factors::twice)
      return I(Q::total(sum, typename Q::Ints(I::load_aligned(scale))));
    else
      return I(Q::total(sum));
  }
  static GLADIUS_INLINE Bytes bytes_of(const Line& line) { return reinterpret_cast<Bytes>(line); }
  static GLADIUS_INLINE V to_float(I x) { return xsimd::to_float(x); }

  // Step `step` of a stage of vector v of a panel.
  static GLADIUS_INLINE void read(const uint8_t* lines, int v, int stage, int step, Line* codes) {
    Codes::template read<Line>(
        stage, step,
        [=](int line) __attribute__((always_inline)) {
          Line x;
          std::memcpy(&x, lines + (line * vectors + v) * 4 * L, sizeof(x));
          return x;
        },
        codes);
    if constexpr (offset)
      for (int part = 0; part < Codes::parts; ++part) codes[part] ^= 0x80808080;
  }

  // The exact sum over a block's groups of scale times sum of codes, in floats where these are exact, too; in
  // a simple block, the sum of codes.
  struct Total {
    static constexpr bool in_float = Factors::float_sums;
    using Part = std::conditional_t<in_float, V, I>;
    static constexpr int count = in_float ? 2 : 1;  // in floats: of either half of the groups
    static constexpr int part_groups = groups / count;
    Part parts[count];

    GLADIUS_INLINE void clear() {
      for (Part& part : parts) part = Part(0);
    }
    GLADIUS_INLINE void add(int group, I sum, const Scale* scale) {
      Part& part = parts[group / part_groups];
      if constexpr (in_float)
        part = Isa::fma(to_float(sum), load<Isa>(scale), part);
      else if constexpr (F::super && !Factors::twice)
        part = part + I(Q::multiply(sum, I::load_aligned(scale)));
      else
        part = part + sum;
    }
    // Rounded once.
    GLADIUS_INLINE V value() const {
      if constexpr (in_float)
        return parts[0] + parts[1];
      else
        return to_float(parts[0]);
    }
  };

  // What a block of an activation brings to its products besides codes.
  struct RowFactors {
    float d, s;
    int32_t sum;
    const int16_t* group_sums;
  };
  static GLADIUS_INLINE RowFactors factors_of(const Row& y, int64_t block) {
    RowFactors f{.d = y.d()[block], .s = 0, .sum = 0, .group_sums = nullptr};
    if constexpr (F::super) {
      f.group_sums = y.group_sums() + block * groups;
    } else {
      f.sum = y.sums()[block];
      if constexpr (F::has_min) f.s = y.s()[block];
    }
    return f;
  }

  // sum + the product of a block, rows from `lane` on.
  static GLADIUS_INLINE V finish(V sum, const Total& total, const Factors& f, int lane, const RowFactors& y) {
    const V dy(y.d), scale = load<Isa>(f.d + lane) * dy;
    if constexpr (F::super) {
      I offsets(0);
      for (int pair = 0; pair < groups / 2; ++pair) {
        int32_t two;
        std::memcpy(&two, y.group_sums + 2 * pair, 4);
        offsets = I(Q::add_pairs(offsets, I::load_aligned(f.pairs[pair] + lane), two));
      }
      if constexpr (F::has_min)
        return sum + (scale * total.value() - load<Isa>(f.m + lane) * dy * to_float(offsets));
      else
        return sum + scale * to_float(total.parts[0] - I(Q::multiply(offsets, I(F::zero))));
    } else {
      I codes = total.parts[0];
      if constexpr (zero != 0) codes = codes - I(zero * y.sum);
      V product = scale * to_float(codes);
      if constexpr (F::has_min) product = product + load<Isa>(f.m + lane) * V(y.s);
      return sum + product;
    }
  }

  // ---- few ----

  // Vectors of a panel whose sums are held at once. Two share activations, but with more than eight sums they
  // are slower with AVX2.
  template <int M>
  static constexpr int together = vectors % 2 == 0 && 2 * Codes::parts * M <= 8 ? 2 : 1;

  // Adds the products of a block of a panel with M activations, for the vectors from v on.
  template <int M>
  static GLADIUS_INLINE void add_block(const uint8_t* lines, const Factors& f, int v, const Row* y,
                                       int64_t block, V (*sums)[M]) {
    constexpr int T = together<M>;
    Total totals[T][M];
    for (int i = 0; i < T; ++i)
      for (int m = 0; m < M; ++m) totals[i][m].clear();
#pragma GCC unroll 4
    for (int stage = 0; stage < Codes::stages; ++stage) {
      constexpr int64_t stage_lines = panel_block(type).lines / Codes::stages;
      if (v == 0) prefetch_ahead<stage_lines>(lines + stage * stage_lines);
      const auto scale = [&](int i, int part) { return f.scales[Codes::group(stage, part)] + (v + i) * L; };
      Sums s[T][M][Codes::parts];
#pragma GCC unroll 2
      for (int i = 0; i < T; ++i)
#pragma GCC unroll 4
        for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
          for (int part = 0; part < Codes::parts; ++part) s[i][m][part] = Q::zero();
#pragma GCC unroll 8
      for (int step = 0; step < Codes::steps; ++step) {
        Line codes[T][Codes::parts];
#pragma GCC unroll 2
        for (int i = 0; i < T; ++i) read(lines, v + i, stage, step, codes[i]);
#pragma GCC unroll 4
        for (int part = 0; part < Codes::parts; ++part)
#pragma GCC unroll 4
          for (int m = 0; m < M; ++m) {
            const Bytes four = four_codes(y[m], block * F::size + 4 * Codes::unit(stage, part, step));
#pragma GCC unroll 2
            for (int i = 0; i < T; ++i)
              dot(s[i][m][part], bytes_of(codes[i][part]), four, step, scale(i, part));
          }
      }
#pragma GCC unroll 4
      for (int part = 0; part < Codes::parts; ++part)
#pragma GCC unroll 4
        for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
          for (int i = 0; i < T; ++i)
            totals[i][m].add(Codes::group(stage, part), total(s[i][m][part], scale(i, part)), scale(i, part));
    }
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) {
      const RowFactors of_row = factors_of(y[m], block);
#pragma GCC unroll 2
      for (int i = 0; i < T; ++i) sums[i][m] = finish(sums[i][m], totals[i][m], f, (v + i) * L, of_row);
    }
  }

  // At most M activations; where there are fewer, the last one stands in for the others.
  template <int M>
  static void few(const TileProduct& t) {
    Row y[M];
    for (int m = 0; m < M; ++m) y[m] = row(t, m < t.a_rows ? m : t.a_rows - 1);
    for (int64_t n = 0; n < t.w_rows; n += panel_rows) {
      const auto* panel = reinterpret_cast<const uint8_t*>(t.w) + n / panel_rows * t.w_stride;
      V sums[vectors][M];
      for (int v = 0; v < vectors; ++v)
        for (int m = 0; m < M; ++m) sums[v][m] = V(0.0f);
      for (int64_t block = 0; block < t.K / F::size; ++block) {
        Factors f;
        const PanelPlace at = panel_place(type, block);
        const uint8_t* head = panel + at.head;
        f.read(head);
        prefetch_ahead<panel_block(type).head>(head);
        const uint8_t* from = panel + at.lines;
        for (int v = 0; v < vectors; v += together<M>) {
          // Codes of activations are read again: compilers would keep all of a block's on the stack.
          if constexpr (vectors > together<M>)
            for (int m = 0; m < M; ++m) __asm__("" : "+r"(y[m].codes));
          add_block<M>(from, f, v, y, block, sums + v);
        }
      }
      const int64_t rows = t.w_rows - n < panel_rows ? t.w_rows - n : panel_rows;
      for (int m = 0; m < M && m < t.a_rows; ++m) {
        alignas(64) float out[panel_rows];
        for (int v = 0; v < vectors; ++v) store<Isa>(out + v * L, sums[v][m]);
        store_sums<Isa>(t, m, n, rows, out);
      }
    }
  }

  static GLADIUS_INLINE Row row(const TileProduct& t, int64_t m) {
    return Row::at(t.a + m * t.a_stride, t.K);
  }

  // ---- many ----

  static constexpr int W = Q::tile_vectors, R = W * L;  // vectors and rows of a tile
  static constexpr int panels = R > panel_rows ? R / static_cast<int>(panel_rows) : 1;  // that a tile is in
  // Elements of a row that are unpacked at once: as many as the nearest cache has room for beside
  // activations.
  static constexpr int piece = R > panel_rows ? kChunk : 4 * kChunk;

  // Codes of a piece of a tile's rows: [element / 4][vector][lane][4], and the factors of their panels.
  struct Piece {
    alignas(64) int8_t codes[piece * R];
    Factors f[piece / F::size][panels];
  };

  // Where a block of a panel is.
  struct Source {
    const uint8_t *head, *lines;
  };
  // Room for one that is made from rows.
  struct Made {
    alignas(64) uint8_t head[panel_block(type).head], lines[panel_block(type).lines];
  };

  static Source source(const TileProduct& t, int64_t n, int64_t block, Made& made) {
    if (t.panels) {
      const auto* panel = reinterpret_cast<const uint8_t*>(t.w) + n / panel_rows * t.w_stride;
      const PanelPlace at = panel_place(type, block);
      return {panel + at.head, panel + at.lines};
    }
    const Block* rows[panel_rows];
    for (int64_t r = 0; r < panel_rows; ++r)
      rows[r] =
          n + r < t.w_rows ? reinterpret_cast<const Block*>(t.w + (n + r) * t.w_stride) + block : nullptr;
    PanelWriter<Isa, type>::block(rows, made.head, made.lines);
    return {made.head, made.lines};
  }

  // Block `block` of the rows from n on, as block b of the piece. Where a tile's last panel is missing, the
  // one before stands in for it.
  static void unpack(const TileProduct& t, int64_t n, int64_t block, int b, Piece& c) {
    Made made;
    for (int p = 0; p < panels; ++p) {
      const int64_t at = n / panel_rows * panel_rows + p * panel_rows;
      const Source from = source(t, at < t.w_rows ? at : at - panel_rows, block, made);
      c.f[b][p].read(from.head);
      for (int i = 0; i < W / panels; ++i) {
        const int v = p * (W / panels) + i;
        for (int stage = 0; stage < Codes::stages; ++stage)
          for (int step = 0; step < Codes::steps; ++step) {
            Line codes[Codes::parts];
            read(from.lines, static_cast<int>(n % panel_rows) / L + i, stage, step, codes);
            for (int part = 0; part < Codes::parts; ++part)
              std::memcpy(c.codes + ((b * F::size / 4 + Codes::unit(stage, part, step)) * W + v) * 4 * L,
                          &codes[part], sizeof(Line));
          }
      }
    }
  }

  // sums[m][v]: those of group g of the piece's block b, whose scales are at scale(v).
  template <int M, class ScaleOf>
  static GLADIUS_INLINE void group_sums(const Piece& c, int b, int g, const Row* y, int64_t k, ScaleOf scale,
                                        I (*sums)[W]) {
    const int8_t* w = c.codes + (b * F::size + g * F::group) * R;
    k += b * F::size + g * F::group;
    if constexpr (Q::pairs_rows) {
      for (int m = 0; m < M; m += 2)
        for (int v = 0; v < W; ++v) {
          typename Q::Ints first, second;
          Q::template two_rows<units>(w + v * 4 * L, R * 4, y[m].codes + k,
                                      y[m + 1 < M ? m + 1 : m].codes + k, first, second);
          sums[m][v] = I(first);
          if (m + 1 < M) sums[m + 1][v] = I(second);
        }
    } else {
      Sums s[M][W];
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
        for (int v = 0; v < W; ++v) s[m][v] = Q::zero();
#pragma GCC unroll 8
      for (int u = 0; u < units; ++u) {
        Bytes codes[W];
#pragma GCC unroll 4
        for (int v = 0; v < W; ++v) codes[v] = Q::load(w + (u * W + v) * 4 * L);
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) {
          const Bytes four = four_codes(y[m], k + 4 * u);
#pragma GCC unroll 4
          for (int v = 0; v < W; ++v) dot(s[m][v], codes[v], four, u, scale(v));
        }
      }
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
        for (int v = 0; v < W; ++v) sums[m][v] = total(s[m][v], scale(v));
    }
  }

  // Adds the products of a piece, which starts at element k, with M activations.
  template <int M>
  static void add_piece(const Piece& c, int64_t n, int blocks, const Row* y, int64_t k, float (*sums)[R]) {
    const int lane0 = static_cast<int>(n % panel_rows);
    const auto factors = [&](int b, int v) -> const Factors& { return c.f[b][v * panels / W]; };
    const auto lane = [&](int v) { return lane0 + v % (W / panels) * L; };
    for (int b = 0; b < blocks; ++b) {
      const int64_t block = k / F::size + b;
      Total totals[M][W];
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
        for (int v = 0; v < W; ++v) totals[m][v].clear();
#pragma GCC unroll 2
      for (int first = 0; first < groups; first += Total::part_groups)
        for (int g = first; g < first + Total::part_groups; ++g) {
          const auto scale = [&](int v) { return factors(b, v).scales[g] + lane(v); };
          I s[M][W];
          group_sums<M>(c, b, g, y, k, scale, s);
#pragma GCC unroll 8
          for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
            for (int v = 0; v < W; ++v) totals[m][v].add(first, s[m][v], scale(v));
        }
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const RowFactors of_row = factors_of(y[m], block);
#pragma GCC unroll 4
        for (int v = 0; v < W; ++v)
          store<Isa>(sums[m] + v * L,
                     finish(load<Isa>(sums[m] + v * L), totals[m][v], factors(b, v), lane(v), of_row));
      }
    }
  }

  // Where a piece stands in the sums: elements from k on, the first and the last ones of a row.
  struct Place {
    int64_t n, k;
    int blocks;
    bool first, last;
  };

  // Asks for the memory that the results of M activations go to, and for what is added to them.
  template <int M>
  static GLADIUS_INLINE void prepare(const TileProduct& t, int64_t n, int64_t m) {
    constexpr int64_t line = 64 / sizeof(float);
    for (int64_t i = m; i < m + M; ++i)
      for (int64_t r = n; r < n + R; r += line) {
        __builtin_prefetch(t.out + i * t.ldo + r, 1);
        if (t.residual) __builtin_prefetch(t.residual + i * t.ldo + r);
      }
  }

  // M activations from m on; the results of the last piece go out at once, while the next ones are computed.
  template <int M>
  static void multiply(const TileProduct& t, const Piece& c, const Place& at, int64_t m, float (*sums)[R]) {
    Row y[M];
    for (int i = 0; i < M; ++i) y[i] = row(t, m + i);
    if (at.first) std::memset(sums, 0, sizeof(sums[0]) * M);
    if (at.last) prepare<M>(t, at.n, m);
    add_piece<M>(c, at.n, at.blocks, y, at.k, sums);
    if (!at.last) return;
    const int64_t rows = t.w_rows - at.n < R ? t.w_rows - at.n : R;
    for (int i = 0; i < M; ++i) store_sums<Isa>(t, m + i, at.n, rows, sums[i]);
  }

  static void many(const TileProduct& t) {
    constexpr int M = Q::tile_activations;
    alignas(64) float sums[max_tile_activations][R];
    Piece c;
    for (int64_t n = 0; n < t.w_rows; n += R) {
      for (int64_t k = 0; k == 0 || k < t.K; k += piece) {
        const int64_t size = t.K - k < piece ? t.K - k : piece;
        const Place at{n, k, static_cast<int>(size / F::size), k == 0, k + size == t.K};
        for (int b = 0; b < at.blocks; ++b) unpack(t, n, k / F::size + b, b, c);
        // Sums that no other piece adds to need not be kept.
        const auto of = [&](int64_t m) { return sums + (at.first && at.last ? 0 : m); };
        int64_t m = 0;
        for (; m + M <= t.a_rows; m += M) multiply<M>(t, c, at, m, of(m));
        for (; m + 2 <= t.a_rows; m += 2) multiply<2>(t, c, at, m, of(m));
        for (; m < t.a_rows; ++m) multiply<1>(t, c, at, m, of(m));
      }
    }
  }

  static constexpr int most_few = 4;

  static void run(const TileProduct& t) {
    using Rows = RowProduct<Isa, type>;
    if (t.a_rows > most_few || (!t.panels && t.a_rows > Rows::most_activations)) return many(t);
    if (!t.panels) return Rows::run(t);
    if (t.a_rows == 1) return few<1>(t);
    t.a_rows == 2 ? few<2>(t) : few<most_few>(t);
  }
};

}  // namespace gladius::cpu
