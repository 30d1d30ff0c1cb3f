// Causal attention in tiles of attention_rows query rows by attention_keys keys, so that scores stay in
// cache: softmax is computed online (Milakov & Gimelshein 2018; tiled as in Dao et al. 2022). Scores are held
// as [key][row]: rows lie along vectors, so that maxima and sums of a row need no sums across lanes, and keys
// and values are read where they lie. A tile's rows are cut into panels as wide as a register tile of scores,
// and a product skips what none of a register tile's rows sees. Query rows are numbered as AttentionTask
// says; row t sees the keys 0 .. Tk - Tq + t / (H/G).
#pragma once

#include <cmath>

#include "kernels/cpu/few_values-inl.h"
#include "kernels/cpu/float_kernels.h"
#include "kernels/cpu/gemm-inl.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/simd.h"

namespace gladius::cpu {

// What a task's rows and keys are and where they lie.
template <class Isa>
struct AttentionGeometry {
  static constexpr int64_t cols = Isa::gemm_vectors * lanes<Isa>;

  const AttentionDims& d;
  int64_t b, g, heads;  // heads in the group
  int64_t width;        // D rounded up to whole register tiles

  GLADIUS_INLINE AttentionGeometry(const AttentionDims& dims, int64_t sequence, int64_t group)
      : d(dims), b(sequence), g(group), heads(dims.H / dims.G), width((dims.D + cols - 1) / cols * cols) {}
  GLADIUS_INLINE int64_t query(int64_t t) const {
    return (b * d.Tq + t / heads) * d.q_stride + (g * heads + t % heads) * d.D;
  }
  GLADIUS_INLINE int64_t key(int64_t j) const { return b * d.kv_batch_stride + j * d.kv_stride + g * d.D; }
  GLADIUS_INLINE int64_t stat(int64_t t) const {
    return (b * d.H + g * heads + t % heads) * d.Tq + t / heads;
  }
  GLADIUS_INLINE int64_t visible_keys(int64_t t) const { return d.Tk - d.Tq + t / heads + 1; }
  // The first row that sees key j, at least 0.
  GLADIUS_INLINE int64_t first_row(int64_t j) const {
    const int64_t position = j - (d.Tk - d.Tq);
    return position > 0 ? position * heads : 0;
  }

  // y[0 .. width) = factor * x[0 .. D), then zeros.
  GLADIUS_INLINE void copy_row(const float* x, float factor, float* y) const {
    int64_t i = 0;
    for (; i < d.D; ++i) y[i] = factor * x[i];
    for (; i < width; ++i) y[i] = 0.0f;
  }
  // y[i, :] = factor * the query rows [t, t + rows) of x, padded to width.
  void copy_queries(int64_t t, int64_t rows, const float* x, float factor, float* y) const {
    for (int64_t i = 0; i < rows; ++i) copy_row(x + query(t + i), factor, y + i * width);
  }
  // n rows of keys or values from j on, as lines of whole register tiles: where they lie if D is such, else
  // copied to `room` [n][width].
  struct Lines {
    const float* data;
    int64_t stride;
  };
  // The rows of x from j on where they lie.
  GLADIUS_INLINE Lines lie(const float* x, int64_t j) const { return {x + key(j), d.kv_stride}; }
  GLADIUS_INLINE Lines key_lines(int64_t j, int64_t n, const float* x, float* room) const {
    if (width == d.D) return lie(x, j);
    for (int64_t i = 0; i < n; ++i) copy_row(x + key(j + i), 1.0f, room + i * width);
    return {room, width};
  }
  // Rows in blocks, from the first row of a block on: where they lie, and as key_lines.
  const std::byte* cached_rows(const CachedKeys& c, const void* x, int64_t j) const {
    return static_cast<const std::byte*>(x) +
           (c.blocks[j / kv_block_tokens] * c.G + g) * kv_block_tokens * c.row_bytes;
  }
  Lines cached_lines(const CachedKeys& c, const void* x, int64_t j, int64_t n, float* room) const {
    const std::byte* rows = cached_rows(c, x, j);
    if (width == d.D) {
      if (c.cache.dtype == DType::F32) return {reinterpret_cast<const float*>(rows), d.D};
      c.widen(c.cache.dtype, n * d.D, rows, room);
      return {room, width};
    }
    for (int64_t i = 0; i < n; ++i) {
      c.widen(c.cache.dtype, d.D, rows + i * c.row_bytes, room + i * width);
      for (int64_t k = d.D; k < width; ++k) room[i * width + k] = 0.0f;
    }
    return {room, width};
  }
};

template <class Isa>
struct AttentionTiles {
  using V = Vec<Isa>;
  using Geometry = AttentionGeometry<Isa>;
  using Pack = Packing<Isa, F32Panels<Isa>>;
  using ScoreTile = InPlaceTile<Isa>;
  static constexpr int64_t w = lanes<Isa>;
  static constexpr int vectors = ScoreTile::gemm_vectors;
  static constexpr int64_t R = attention_rows, P = vectors * w;  // rows of a tile, of a panel
  static_assert(R % P == 0 && attention_keys % w == 0 && attention_max_width % Geometry::cols == 0);

  struct Range {
    int64_t begin, end;
  };

  // C[m, n] (+)= A·B, in register tiles of equal height. Rows [i, i + height) of C are summed over the range
  // summed(i, height); where it is empty, they stay as they are.
  template <class Tile, bool Strided, class Summed>
  static GLADIUS_INLINE void product(int64_t m, int64_t n, const TileFactors& f, float* c, int64_t c_stride,
                                     bool add, Summed summed) {
    constexpr int64_t cols = Tile::gemm_vectors * w;
    const int64_t height = ceil_div(m, ceil_div(m, Tile::gemm_rows));
    for (int64_t i = 0; i < m; i += height, c += height * c_stride) {
      const int64_t rows = smaller(height, m - i);
      const Range k = summed(i, rows);
      if (k.end <= k.begin) continue;
      TileFactors part = f;
      part.k = k.end - k.begin;
      part.a += i * f.a_row + k.begin * f.a_step;
      part.b += k.begin * f.b_step;
      for (int64_t j = 0; j < n; j += cols, part.b += cols)
        multiply_tile<Tile, F32Panels<Tile>, Strided>(rows, smaller(cols, n - j), part, c + j, c_stride,
                                                      {add, nullptr});
    }
  }

  static GLADIUS_INLINE auto all(int64_t k) {
    return [k](int64_t, int64_t) { return Range{0, k}; };
  }

  // y[panel][D][P], from rows x[row][width].
  static void pack_panels(const Geometry& at, int64_t rows, const float* x, float* y) {
    for (int64_t p = 0; p < rows; p += P)
      Pack::pack_rows(smaller(P, rows - p), at.d.D, x + p * at.width, at.width, P, y + p * at.d.D);
  }

  // How many of the keys [j0, j0 + n) any of the query rows [t, t_end) sees.
  static GLADIUS_INLINE int64_t visible(const Geometry& at, int64_t t_end, int64_t j0, int64_t n) {
    return larger(0, smaller(n, at.visible_keys(t_end - 1) - j0));
  }

  // y[key][row] for a panel of rows, y's stride is R: the query rows whose transpose is `panel` [D][P] times
  // n rows of x (keys or values).
  static void scores(const Geometry& at, const float* panel, typename Geometry::Lines x, int64_t n,
                     float* y) {
    product<ScoreTile, true>(n, P, {at.d.D, x.data, x.stride, 1, panel, P}, y, R, false, all(at.d.D));
  }

  // -inf where a row of the panel from t on does not see one of the n keys, the last of which some row sees.
  static void hide_future(const Geometry& at, int64_t t, int64_t j0, int64_t n, float* scores) {
    for (int64_t j = n - 1; j >= 0; --j) {
      const int64_t hidden = at.first_row(j0 + j) - t;
      if (hidden <= 0) return;
      for (int64_t i = 0; i < hidden; ++i) scores[j * R + i] = -__builtin_inff();
    }
  }

  // A panel's scores of the keys [begin, end), which none of its rows sees.
  static void clear(int64_t begin, int64_t end, float* scores) {
    for (int64_t j = begin; j < end; ++j)
      for (int64_t i = 0; i < P; ++i) scores[j * R + i] = 0.0f;
  }

  // y[row][width] (+)= s[key][row]ᵀ · x[key] for the rows [t, t + rows), the keys [j0, j0 + n).
  static void mix(const Geometry& at, int64_t t, int64_t rows, int64_t j0, int64_t n, const float* s,
                  typename Geometry::Lines x, float* y) {
    product<Isa, false>(
        rows, at.width, {n, s, 1, R, x.data, x.stride}, y, at.width, j0 > 0,
        [&](int64_t i, int64_t height) { return Range{0, visible(at, t + i + height, j0, n)}; });
  }
};

template <class Isa>
struct AttentionForward {
  using V = Vec<Isa>;
  using Geometry = AttentionGeometry<Isa>;
  using Tiles = AttentionTiles<Isa>;
  static constexpr int64_t w = lanes<Isa>;
  static constexpr int64_t R = attention_rows, P = Tiles::P;

  static void run(const AttentionTask& t) {
    const Geometry at(*t.d, t.b, t.g);
    if (t.row_end - t.row_begin <= few_rows)
      few(at, t);
    else
      tile(at, t);
  }

  static void merge(const AttentionTask& t, int64_t pieces, const float* partials) {
    const Geometry at(*t.d, t.b, t.g);
    const Tile tile(at, t.scratch);
    const int64_t rows = t.row_end - t.row_begin;
    start_few(at, rows, tile);
    for (int64_t p = 0; p < pieces; ++p, partials += attention_partial_floats) {
      const float *o = partials, *largest = o + rows * at.width, *sum = largest + rows;
      for (int64_t i = 0; i < rows; ++i) {
        if (largest[i] == -__builtin_inff()) continue;  // the row sees none of these keys
        raise(at, tile, i, largest[i]);
        const float weight = std::exp(largest[i] - tile.largest[i]);
        tile.sum[i] += weight * sum[i];
        for (int64_t c = 0; c < at.width; ++c) tile.o[i * at.width + c] += weight * o[i * at.width + c];
      }
    }
    finish(at, t, tile);
  }

 private:
  struct Tile {
    float *rows, *q, *o, *scores;  // [R][width], [panel][D][P], [R][width], [key][R]
    float *largest, *sum;          // of each row so far: the largest score, the sum of exp(score - largest)
    float* rescale;                // what o is to be multiplied by before the next keys are added
    float* room;                   // [key][width]

    Tile(const Geometry& at, float* scratch)
        : rows(scratch),
          q(rows + R * at.width),
          o(q + R * at.width),
          scores(o + R * at.width),
          largest(scores + R * attention_keys),
          sum(largest + R),
          rescale(sum + R),
          room(rescale + R) {}
  };

  static void start(const Tile& tile) {
    for (int64_t i = 0; i < R; ++i) {
      tile.largest[i] = -__builtin_inff();
      tile.sum[i] = 0.0f;
    }
  }

  static typename Geometry::Lines keys(const Geometry& at, const AttentionTask& t, int64_t j, int64_t n,
                                       float* room) {
    return t.cached ? at.cached_lines(*t.cached, t.cached->cache.k, j, n, room) : at.lie(t.k, j);
  }
  static typename Geometry::Lines values(const Geometry& at, const AttentionTask& t, int64_t j, int64_t n,
                                         float* room) {
    return t.cached ? at.cached_lines(*t.cached, t.cached->cache.v, j, n, room)
                    : at.key_lines(j, n, t.v, room);
  }

  // Writes what was mixed divided by each row's sum.
  static void finish(const Geometry& at, const AttentionTask& t, const Tile& tile) {
    const float* o = tile.o;
    for (int64_t i = 0; i < t.row_end - t.row_begin; ++i, o += at.width) {
      const float inverse = 1.0f / tile.sum[i];
      float* y = t.o + at.query(t.row_begin + i);
      for (int64_t c = 0; c < at.d.D; ++c) y[c] = o[c] * inverse;
      if (t.lse) t.lse[at.stat(t.row_begin + i)] = tile.largest[i] + std::log(tile.sum[i]);
    }
  }

  static void tile(const Geometry& at, const AttentionTask& t) {
    const Tile tile(at, t.scratch);
    const int64_t rows = t.row_end - t.row_begin;
    at.copy_queries(t.row_begin, rows, t.q, at.d.scale, tile.rows);
    Tiles::pack_panels(at, rows, tile.rows, tile.q);
    start(tile);
    const int64_t end = at.visible_keys(t.row_end - 1);
    for (int64_t j0 = 0; j0 < end; j0 += attention_keys) {
      const int64_t n = smaller(attention_keys, end - j0);
      const auto k = keys(at, t, j0, n, tile.room);
      for (int64_t p = 0; p < rows; p += P) panel(at, t, tile, k, p, j0, n);
      Tiles::mix(at, t.row_begin, rows, j0, n, tile.scores, values(at, t, j0, n, tile.room), tile.o);
    }
    finish(at, t, tile);
  }

  // The panel of rows from p on and the keys [j0, j0 + n), which are `k`.
  static void panel(const Geometry& at, const AttentionTask& t, const Tile& tile, typename Geometry::Lines k,
                    int64_t p, int64_t j0, int64_t n) {
    const int64_t end = smaller(p + P, t.row_end - t.row_begin);
    const int64_t visible = Tiles::visible(at, t.row_begin + end, j0, n);
    float* const scores = tile.scores + p;
    Tiles::clear(visible, n, scores);
    if (visible == 0) return;
    Tiles::scores(at, tile.q + p * at.d.D, k, visible, scores);
    Tiles::hide_future(at, t.row_begin + p, j0, visible, scores);
    softmax_step(tile, p, visible);
    for (int64_t i = p; j0 > 0 && i < end; ++i)
      Rows<Isa>::scale_row(at.width, tile.rescale[i], tile.o + i * at.width);
  }

  // For the panel of rows from p on: scores become exp(score - largest).
  static void softmax_step(const Tile& tile, int64_t p, int64_t n) {
    constexpr int vectors = Tiles::vectors;
    float* const scores = tile.scores + p;
    V largest[vectors], sum[vectors];
    for (int v = 0; v < vectors; ++v) largest[v] = load<Isa>(tile.largest + p + v * w);
    for (int64_t j = 0; j < n; ++j) {
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v)
        largest[v] = xsimd::max(largest[v], load<Isa>(scores + j * R + v * w));
    }
    for (int v = 0; v < vectors; ++v) {
      const int64_t at = p + v * w;
      const V rescale = exp_below_overflow<Isa>(load<Isa>(tile.largest + at) - largest[v]);
      sum[v] = load<Isa>(tile.sum + at) * rescale;
      store<Isa>(tile.rescale + at, rescale);
      store<Isa>(tile.largest + at, largest[v]);
    }
    for (int64_t j = 0; j < n; ++j) {
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) {
        const int64_t at = j * R + v * w;
        const V e = exp_below_overflow<Isa>(load<Isa>(scores + at) - largest[v]);
        store<Isa>(scores + at, e);
        sum[v] = sum[v] + e;
      }
    }
    for (int v = 0; v < vectors; ++v) store<Isa>(tile.sum + p + v * w, sum[v]);
  }

  // ---- few rows, as when one token is generated: scores[row][key], keys read once ----

  static void start_few(const Geometry& at, int64_t rows, const Tile& tile) {
    for (int64_t i = 0; i < rows * at.width; ++i) tile.o[i] = 0.0f;
    start(tile);
  }

  // Row i's largest score is at least `score` from now on.
  static void raise(const Geometry& at, const Tile& tile, int64_t i, float score) {
    const float before = tile.largest[i];
    if (score <= before) return;
    const float rescale = std::exp(before - score);
    tile.sum[i] *= rescale;
    Rows<Isa>::scale_row(at.width, rescale, tile.o + i * at.width);
    tile.largest[i] = score;
  }

  // Of the n keys of a tile row i sees the first `visible`.
  static void few_softmax_step(const Geometry& at, const Tile& tile, int64_t i, int64_t visible, int64_t n) {
    float* s = tile.scores + i * attention_keys;
    visible = smaller(larger(visible, 0), n);
    for (int64_t j = visible; j < n; ++j) s[j] = 0.0f;
    if (visible == 0) return;
    raise(at, tile, i, Rows<Isa>::max(visible, s));
    tile.sum[i] += Rows<Isa>::exp_row(visible, s, tile.largest[i], s);
  }

  // f<type>() for keys and values in 16 bits, which are multiplied where they lie: many come from memory, and
  // stores of what they are widened to would wait for them one after the other. Otherwise false.
  template <class F>
  static bool with_halves(const AttentionTask& t, F f) {
    if (!t.cached || (t.cached->cache.dtype != DType::F16 && t.cached->cache.dtype != DType::BF16))
      return false;
    t.cached->cache.dtype == DType::F16 ? f.template operator()<DType::F16>()
                                        : f.template operator()<DType::BF16>();
    return true;
  }

  static void few_scores(const Geometry& at, const AttentionTask& t, const Tile& tile, int64_t rows,
                         int64_t j, int64_t n) {
    FewRowsTile f{.rows = rows,
                  .cols = n,
                  .k = at.d.D,
                  .a = tile.rows,
                  .a_stride = at.width,
                  .b = nullptr,
                  .b_stride = 0,
                  .c = tile.scores,
                  .c_stride = attention_keys,
                  .add = false,
                  .residual = nullptr};
    const bool done = with_halves(t, [&]<DType type>() {
      f.b = at.cached_rows(*t.cached, t.cached->cache.k, j);
      f.b_stride = t.cached->row_bytes;
      FewRows<Isa, type>::run(f);
    });
    if (done) return;
    const auto k = keys(at, t, j, n, tile.room);
    f.b = reinterpret_cast<const std::byte*>(k.data);
    f.b_stride = k.stride * int64_t{sizeof(float)};
    FewRows<Isa>::run(f);
  }

  static void few_mix(const Geometry& at, const AttentionTask& t, const Tile& tile, int64_t rows, int64_t j,
                      int64_t n) {
    const bool done = with_halves(t, [&]<DType type>() {
      FewValues<Isa, type>::add({.rows = rows,
                                 .keys = n,
                                 .columns = at.d.D,
                                 .weights = tile.scores,
                                 .values = at.cached_rows(*t.cached, t.cached->cache.v, j),
                                 .row_bytes = t.cached->row_bytes,
                                 .o = tile.o,
                                 .o_stride = at.width});
    });
    if (done) return;
    const auto v = values(at, t, j, n, tile.room);
    Tiles::template product<Isa, true>(rows, at.width, {n, tile.scores, attention_keys, 1, v.data, v.stride},
                                       tile.o, at.width, true, Tiles::all(n));
  }

  static void few(const Geometry& at, const AttentionTask& t) {
    const Tile tile(at, t.scratch);
    const int64_t rows = t.row_end - t.row_begin;
    at.copy_queries(t.row_begin, rows, t.q, at.d.scale, tile.rows);
    start_few(at, rows, tile);
    const int64_t end = smaller(at.visible_keys(t.row_end - 1), t.key_end);
    for (int64_t j0 = t.key_begin; j0 < end; j0 += attention_keys) {
      const int64_t n = smaller(attention_keys, end - j0);
      few_scores(at, t, tile, rows, j0, n);
      for (int64_t i = 0; i < rows; ++i)
        few_softmax_step(at, tile, i, at.visible_keys(t.row_begin + i) - j0, n);
      few_mix(at, t, tile, rows, j0, n);
    }
    t.partial ? write_partial(at, rows, tile, t.partial) : finish(at, t, tile);
  }

  static void write_partial(const Geometry& at, int64_t rows, const Tile& tile, float* y) {
    for (int64_t i = 0; i < rows * at.width; ++i) *y++ = tile.o[i];
    for (int64_t i = 0; i < rows; ++i) *y++ = tile.largest[i];
    for (int64_t i = 0; i < rows; ++i) *y++ = tile.sum[i];
  }
};

}  // namespace gladius::cpu
