// Causal attention in tiles of attention_rows query rows by attention_keys keys, so that scores stay in
// cache: softmax is computed online (Milakov & Gimelshein 2018; tiled as in Dao et al. 2022). Scores are held
// as [key][row]: rows lie along vectors, so that maxima and sums of a row need no sums across lanes, and keys
// and values are read where they lie. Query rows are numbered as AttentionTask says; row t sees the keys
// 0 .. Tk - Tq + t / (H/G).
#pragma once

#include <cmath>

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
  GLADIUS_INLINE Lines key_lines(int64_t j, int64_t n, const float* x, float* room) const {
    if (width == d.D) return {x + key(j), d.kv_stride};
    for (int64_t i = 0; i < n; ++i) copy_row(x + key(j + i), 1.0f, room + i * width);
    return {room, width};
  }
};

template <class Isa>
struct AttentionTiles {
  using V = Vec<Isa>;
  using Geometry = AttentionGeometry<Isa>;
  using Pack = Packing<Isa, F32Panels<Isa>>;
  static constexpr int64_t w = lanes<Isa>;
  static constexpr int64_t R = attention_rows;
  static_assert(R % Geometry::cols == 0 && attention_max_width % Geometry::cols == 0);

  // C[m, n] (+)= A·B, in register tiles of equal height.
  template <bool Strided>
  static void product(int64_t m, int64_t n, TileFactors f, float* c, int64_t c_stride, bool add) {
    const int64_t panels = (m + Isa::gemm_rows - 1) / Isa::gemm_rows, height = (m + panels - 1) / panels;
    const float* b = f.b;
    for (int64_t i = 0; i < m; i += height, f.a += height * f.a_row, c += height * c_stride) {
      for (int64_t j = 0; j < n; j += Geometry::cols) {
        f.b = b + j;
        multiply_tile<Isa, F32Panels<Isa>, Strided>(m - i < height ? m - i : height,
                                                    n - j < Geometry::cols ? n - j : Geometry::cols, f, c + j,
                                                    c_stride, {add, nullptr});
      }
    }
  }

  // y[key][row]: the query rows whose transpose is `panel` [D][R] times n rows of x (keys or values) from j0
  // on.
  static void scores(const Geometry& at, const float* panel, const float* x, int64_t j0, int64_t n,
                     float* y) {
    product<true>(n, R, {at.d.D, x + at.key(j0), at.d.kv_stride, 1, panel, R}, y, R, false);
  }

  // -inf where a row of the tile from t on does not see the key.
  static void hide_future(const Geometry& at, int64_t t, int64_t rows, int64_t j0, int64_t n, float* scores) {
    for (int64_t j = n - 1; j >= 0; --j) {
      const int64_t hidden = at.first_row(j0 + j) - t;
      if (hidden <= 0) return;
      for (int64_t i = 0; i < hidden && i < rows; ++i) scores[j * R + i] = -__builtin_inff();
    }
  }
};

template <class Isa>
struct AttentionForward {
  using V = Vec<Isa>;
  using Geometry = AttentionGeometry<Isa>;
  using Tiles = AttentionTiles<Isa>;
  static constexpr int64_t w = lanes<Isa>;
  static constexpr int64_t R = attention_rows;

  static void run(const AttentionTask& t) {
    const Geometry at(*t.d, t.b, t.g);
    if (t.row_end - t.row_begin <= few_rows)
      few(at, t);
    else
      tile(at, t);
  }

 private:
  struct Tile {
    float *rows, *q, *o, *scores;  // [R][width], [D][R], [D][R], [key][R]
    float *largest, *sum;          // of each row so far: the largest score, the sum of exp(score - largest)

    Tile(const Geometry& at, float* scratch)
        : rows(scratch),
          q(rows + R * at.width),
          o(q + R * at.width),
          scores(o + R * at.width),
          largest(scores + R * attention_keys),
          sum(largest + R) {}
  };

  static void start(const Tile& tile) {
    for (int64_t i = 0; i < R; ++i) {
      tile.largest[i] = -__builtin_inff();
      tile.sum[i] = 0.0f;
    }
  }

  // Writes what was mixed, o[row][D], divided by each row's sum.
  static void finish(const Geometry& at, const AttentionTask& t, const Tile& tile, const float* o,
                     int64_t stride) {
    for (int64_t i = 0; i < t.row_end - t.row_begin; ++i, o += stride) {
      const float inverse = 1.0f / tile.sum[i];
      float* y = t.o + at.query(t.row_begin + i);
      for (int64_t c = 0; c < at.d.D; ++c) y[c] = o[c] * inverse;
      if (t.lse) t.lse[at.stat(t.row_begin + i)] = tile.largest[i] + std::log(tile.sum[i]);
    }
  }

  static void tile(const Geometry& at, const AttentionTask& t) {
    const Tile tile(at, t.scratch);
    const int64_t rows = t.row_end - t.row_begin, D = at.d.D;
    at.copy_queries(t.row_begin, rows, t.q, at.d.scale, tile.rows);
    Tiles::Pack::pack_rows(rows, D, tile.rows, at.width, R, tile.q);
    start(tile);
    const int64_t end = at.visible_keys(t.row_end - 1);
    for (int64_t j0 = 0; j0 < end; j0 += attention_keys) {
      const int64_t n = end - j0 < attention_keys ? end - j0 : attention_keys;
      Tiles::scores(at, tile.q, t.k, j0, n, tile.scores);
      Tiles::hide_future(at, t.row_begin, rows, j0, n, tile.scores);
      for (int64_t i = 0; i < R; i += w) softmax_step(tile, i, n, j0 > 0 ? D : 0);
      // o[D][row] += V[key][D]ᵀ · scores[key][row]
      Tiles::template product<false>(D, R, {n, t.v + at.key(j0), 1, at.d.kv_stride, tile.scores, R}, tile.o,
                                     R, j0 > 0);
    }
    Tiles::Pack::pack_rows(D, R, tile.o, R, D, tile.rows);  // [R][D]
    finish(at, t, tile, tile.rows, D);
  }

  // For the w rows from i on: scores become exp(score - largest); what was summed before is scaled to the new
  // largest score.
  static GLADIUS_INLINE void softmax_step(const Tile& tile, int64_t i, int64_t n, int64_t D) {
    const V before = load<Isa>(tile.largest + i);
    V largest = before;
    for (int64_t j = 0; j < n; ++j) largest = xsimd::max(largest, load<Isa>(tile.scores + j * R + i));
    const V rescale = exp<Isa>(before - largest);
    V sum = load<Isa>(tile.sum + i) * rescale;
    for (int64_t j = 0; j < n; ++j) {
      const V p = exp<Isa>(load<Isa>(tile.scores + j * R + i) - largest);
      store<Isa>(tile.scores + j * R + i, p);
      sum = sum + p;
    }
    store<Isa>(tile.sum + i, sum);
    store<Isa>(tile.largest + i, largest);
    for (int64_t c = 0; c < D; ++c) store<Isa>(tile.o + c * R + i, load<Isa>(tile.o + c * R + i) * rescale);
  }

  // ---- few rows, as when one token is generated: scores[row][key], keys read once ----

  static void few_softmax_step(const Geometry& at, const Tile& tile, int64_t i, int64_t visible, int64_t n) {
    float* s = tile.scores + i * attention_keys;
    for (int64_t j = visible > 0 ? visible : 0; j < n; ++j) s[j] = -__builtin_inff();
    const float before = tile.largest[i], tile_max = Rows<Isa>::max(n, s);
    const float now = tile_max > before ? tile_max : before;
    const float sum = Rows<Isa>::exp_row(n, s, now, s);
    if (now != before) {
      const float rescale = std::exp(before - now);
      tile.sum[i] *= rescale;
      Rows<Isa>::scale_row(at.width, rescale, tile.o + i * at.width);
      tile.largest[i] = now;
    }
    tile.sum[i] += sum;
  }

  static void few(const Geometry& at, const AttentionTask& t) {
    const Tile tile(at, t.scratch);
    const int64_t rows = t.row_end - t.row_begin, D = at.d.D;
    at.copy_queries(t.row_begin, rows, t.q, at.d.scale, tile.rows);
    for (int64_t i = 0; i < rows * at.width; ++i) tile.o[i] = 0.0f;
    start(tile);
    float* room = tile.sum + R;  // [key][width]
    const int64_t end = at.visible_keys(t.row_end - 1);
    for (int64_t j0 = 0; j0 < end; j0 += attention_keys) {
      const int64_t n = end - j0 < attention_keys ? end - j0 : attention_keys;
      FewRows<Isa>::run({rows, n, D, tile.rows, at.width, t.k + at.key(j0), at.d.kv_stride, tile.scores,
                         attention_keys, false, nullptr});
      for (int64_t i = 0; i < rows; ++i)
        few_softmax_step(at, tile, i, at.visible_keys(t.row_begin + i) - j0, n);
      const auto v = at.key_lines(j0, n, t.v, room);
      Tiles::template product<true>(rows, at.width, {n, tile.scores, attention_keys, 1, v.data, v.stride},
                                    tile.o, at.width, true);
    }
    finish(at, t, tile, tile.o, at.width);
  }
};

template <class Isa>
struct AttentionBackward {
  using V = Vec<Isa>;
  using Geometry = AttentionGeometry<Isa>;
  using Tiles = AttentionTiles<Isa>;
  static constexpr int64_t w = lanes<Isa>;
  static constexpr int64_t R = attention_rows;

  // One key/value head of one sequence: its query rows in order, for each tile of them the keys in order.
  static void run(const AttentionBackwardTask& task) {
    const Geometry at(*task.d, task.b, task.g);
    const Tile tile(at, task.scratch);
    for (int64_t j = 0; j < at.d.Tk; ++j)
      for (int64_t c = 0; c < at.d.D; ++c) task.dk[at.key(j) + c] = task.dv[at.key(j) + c] = 0.0f;
    const int64_t rows_total = at.d.Tq * at.heads;
    for (int64_t t = 0; t < rows_total; t += R) {
      const int64_t rows = rows_total - t < R ? rows_total - t : R;
      load_rows(at, task, tile, t, rows);
      const int64_t end = at.visible_keys(t + rows - 1);
      for (int64_t j0 = 0; j0 < end; j0 += attention_keys)
        key_tile(at, task, tile, t, rows, j0, end - j0 < attention_keys ? end - j0 : attention_keys);
      for (int64_t i = 0; i < rows; ++i) {
        float* y = task.dq + at.query(t + i);
        for (int64_t c = 0; c < at.d.D; ++c) y[c] = at.d.scale * tile.dq[i * at.width + c];
      }
    }
  }

 private:
  struct Tile {
    float *q, *dO, *dq;         // [R][width]
    float *q_panel, *dO_panel;  // [D][R]
    float* k;                   // [key][width]
    float *p, *ds;              // probabilities and the gradients of scores, [key][R]
    float *lse, *delta;         // of each row; delta = dO · o

    Tile(const Geometry& at, float* scratch)
        : q(scratch),
          dO(q + R * at.width),
          dq(dO + R * at.width),
          q_panel(dq + R * at.width),
          dO_panel(q_panel + R * at.width),
          k(dO_panel + R * at.width),
          p(k + attention_keys * at.width),
          ds(p + R * attention_keys),
          lse(ds + R * attention_keys),
          delta(lse + R) {}
  };

  static void load_rows(const Geometry& at, const AttentionBackwardTask& task, const Tile& tile, int64_t t,
                        int64_t rows) {
    at.copy_queries(t, rows, task.q, at.d.scale, tile.q);
    at.copy_queries(t, rows, task.dO, 1.0f, tile.dO);
    Tiles::Pack::pack_rows(rows, at.d.D, tile.q, at.width, R, tile.q_panel);
    Tiles::Pack::pack_rows(rows, at.d.D, tile.dO, at.width, R, tile.dO_panel);
    for (int64_t i = 0; i < R; ++i) {
      tile.lse[i] = i < rows ? task.lse[at.stat(t + i)] : 0.0f;
      tile.delta[i] =
          i < rows ? Rows<Isa>::dot(at.d.D, task.dO + at.query(t + i), task.o + at.query(t + i)) : 0.0f;
    }
  }

  // What the rows of the tile and the keys [j0, j0 + n) give each other.
  static void key_tile(const Geometry& at, const AttentionBackwardTask& task, const Tile& tile, int64_t t,
                       int64_t rows, int64_t j0, int64_t n) {
    const int64_t D = at.d.D;
    Tiles::scores(at, tile.q_panel, task.k, j0, n, tile.p);
    Tiles::scores(at, tile.dO_panel, task.v, j0, n, tile.ds);
    Tiles::hide_future(at, t, rows, j0, n, tile.p);
    for (int64_t i = 0; i < R; i += w) score_gradients(tile, i, n);
    // dv[key] += p[key][row] · dO[row], dk[key] += ds[key][row] · q[row], dq[row] += ds[key][row]ᵀ · k[key]
    Tiles::template product<true>(n, D, {rows, tile.p, R, 1, tile.dO, at.width}, task.dv + at.key(j0),
                                  at.d.kv_stride, true);
    Tiles::template product<true>(n, D, {rows, tile.ds, R, 1, tile.q, at.width}, task.dk + at.key(j0),
                                  at.d.kv_stride, true);
    const auto k = at.key_lines(j0, n, task.k, tile.k);
    Tiles::template product<false>(rows, at.width, {n, tile.ds, 1, R, k.data, k.stride}, tile.dq, at.width,
                                   j0 > 0);
  }

  // For the w rows from i on, in place of scores and of dO · v: p = exp(s - lse), ds = p * (dO · v - delta).
  static GLADIUS_INLINE void score_gradients(const Tile& tile, int64_t i, int64_t n) {
    const V lse = load<Isa>(tile.lse + i), delta = load<Isa>(tile.delta + i);
    for (int64_t j = 0; j < n; ++j) {
      const int64_t x = j * R + i;
      const V p = exp<Isa>(load<Isa>(tile.p + x) - lse);
      store<Isa>(tile.p + x, p);
      store<Isa>(tile.ds + x, p * (load<Isa>(tile.ds + x) - delta));
    }
  }
};

}  // namespace gladius::cpu
