// Causal attention in tiles of attention_rows query rows by attention_keys keys, so that scores stay in
// cache: softmax is computed online (Milakov & Gimelshein 2018; tiled as in Dao et al. 2022). Products run
// through the matrix kernels' register tiles. Query rows are numbered as AttentionTask says; row t sees keys
// 0 .. Tk - Tq + t / (H/G).
#pragma once

#include <cmath>

#include "kernels/cpu/float_kernels.h"
#include "kernels/cpu/gemm-inl.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/simd.h"

namespace gladius::cpu {

template <class Isa>
struct Attention {
  using V = Vec<Isa>;
  static constexpr int64_t w = lanes<Isa>;
  static constexpr int64_t cols = Gemm<Isa, F32Panels<Isa>>::cols;
  using Pack = Packing<Isa, F32Panels<Isa>>;
  static constexpr int64_t keys = attention_keys;
  static_assert(keys % cols == 0 && attention_max_width % cols == 0);

  // What a task's rows and keys are and where they lie.
  struct Geometry {
    const AttentionDims& d;
    int64_t b, g, heads;  // heads in the group
    int64_t width;        // D rounded up to whole register tiles

    Geometry(const AttentionDims& dims, int64_t sequence, int64_t group)
        : d(dims), b(sequence), g(group), heads(dims.H / dims.G), width((dims.D + cols - 1) / cols * cols) {}
    int64_t query(int64_t t) const {
      return (b * d.Tq + t / heads) * d.q_stride + (g * heads + t % heads) * d.D;
    }
    int64_t key(int64_t j) const { return b * d.kv_batch_stride + j * d.kv_stride + g * d.D; }
    int64_t stat(int64_t t) const { return (b * d.H + g * heads + t % heads) * d.Tq + t / heads; }
    int64_t visible_keys(int64_t t) const { return d.Tk - d.Tq + t / heads + 1; }
    // Of the keys [j0, j0 + keys), how many row t sees.
    int64_t visible_in_tile(int64_t t, int64_t j0) const {
      const int64_t n = visible_keys(t) - j0;
      return n < 0 ? 0 : n < keys ? n : keys;
    }
  };

  // The factors of a product of tiles: element (i, p) of A is a[i * RowStride + p * a_step], B is row-major.
  struct Factors {
    int64_t k;  // summed over
    const float* a;
    int64_t a_step;
    const float* b;
    int64_t b_stride;
  };

  // C[rows, n] (+)= A·B, n a multiple of cols, C row-major.
  template <int RowStride>
  static GLADIUS_INLINE void product(int64_t rows, int64_t n, const Factors& f, float* c, int64_t c_stride,
                                     bool add) {
    for (int64_t j = 0; j < n; j += cols) {
      for (int64_t i = 0; i < rows; i += Isa::gemm_rows) {
        const int64_t m = rows - i < Isa::gemm_rows ? rows - i : Isa::gemm_rows;
        register_tiles<Isa, F32Panels<Isa>, RowStride>.of_rows[m - 1](
            f.k, f.a + i * RowStride, f.a_step, f.b + j, f.b_stride, c + i * c_stride + j, c_stride,
            {add, nullptr}, {});
      }
    }
  }

  // y[0 .. width) = factor * x[0 .. D), then zeros.
  static void copy_row(const Geometry& at, const float* x, float factor, float* y) {
    int64_t i = 0;
    for (; i < at.d.D; ++i) y[i] = factor * x[i];
    for (; i < at.width; ++i) y[i] = 0.0f;
  }

  // dst[i, :] = factor * the query rows [t, t + rows) of x, padded to width.
  static void copy_queries(const Geometry& at, int64_t t, int64_t rows, const float* x, float factor,
                           float* dst) {
    for (int64_t i = 0; i < rows; ++i) copy_row(at, x + at.query(t + i), factor, dst + i * at.width);
  }
  static void copy_keys(const Geometry& at, int64_t j, int64_t n, const float* x, float* dst) {
    for (int64_t i = 0; i < n; ++i) copy_row(at, x + at.key(j + i), 1.0f, dst + i * at.width);
  }

  // ---- forward ----

  struct ForwardTile {
    float *q, *q_panel, *k_panel, *v, *o, *scores;
    float *largest, *sum;  // of each row so far: the largest score, and the sum of exp(score - largest)

    ForwardTile(const Geometry& at, float* scratch) {
      const int64_t tile = attention_rows * at.width;
      q = scratch;
      q_panel = q + tile;
      k_panel = q_panel + tile;
      v = k_panel + tile;
      o = v + tile;
      scores = o + tile;
      largest = scores + attention_rows * keys;
      sum = largest + attention_rows;
    }
  };

  // Turns a row's scores into exp(score - largest), rescaling what was summed under a smaller maximum.
  static void softmax_step(const Geometry& at, const ForwardTile& tile, int64_t i, int64_t visible) {
    float* s = tile.scores + i * keys;
    for (int64_t j = visible; j < keys; ++j) s[j] = -__builtin_inff();
    const float before = tile.largest[i], tile_max = Rows<Isa>::max(keys, s);
    const float now = tile_max > before ? tile_max : before;
    const float sum = Rows<Isa>::exp_row(keys, s, now, s);
    if (now != before) {
      const float rescale = std::exp(before - now);
      tile.sum[i] *= rescale;
      Rows<Isa>::scale_row(at.width, rescale, tile.o + i * at.width);
      tile.largest[i] = now;
    }
    tile.sum[i] += sum;
  }

  // Scores of a few rows against keys as they lie; of many against a transposed copy.
  static void scores(const Geometry& at, const AttentionTask& t, const ForwardTile& tile, int64_t rows,
                     int64_t j0, int64_t n) {
    if (rows <= few_rows) {
      const FewRowsTile few{rows,           n,           at.d.D, tile.q, at.width, t.k + at.key(j0),
                            at.d.kv_stride, tile.scores, keys,   false,  nullptr};
      FewRows<Isa>::run(few);
    } else {
      Pack::pack_rows(n, at.d.D, t.k + at.key(j0), at.d.kv_stride, keys, tile.k_panel);
      product<1>(rows, keys, {at.d.D, tile.q_panel, rows, tile.k_panel, keys}, tile.scores, keys, false);
    }
  }

  static void forward(const AttentionTask& t) {
    const Geometry at(*t.d, t.b, t.g);
    const ForwardTile tile(at, t.scratch);
    const int64_t rows = t.row_end - t.row_begin;
    copy_queries(at, t.row_begin, rows, t.q, at.d.scale, tile.q);
    if (rows > few_rows) Pack::pack_rows(rows, at.d.D, tile.q, at.width, rows, tile.q_panel);
    for (int64_t i = 0; i < rows * at.width; ++i) tile.o[i] = 0.0f;
    for (int64_t i = 0; i < rows; ++i) {
      tile.largest[i] = -__builtin_inff();
      tile.sum[i] = 0.0f;
    }
    const int64_t end = at.visible_keys(t.row_end - 1);
    for (int64_t j0 = 0; j0 < end; j0 += keys) {
      const int64_t n = end - j0 < keys ? end - j0 : keys;
      scores(at, t, tile, rows, j0, n);
      for (int64_t i = 0; i < rows; ++i) softmax_step(at, tile, i, at.visible_in_tile(t.row_begin + i, j0));
      copy_keys(at, j0, n, t.v, tile.v);
      product<keys>(rows, at.width, {n, tile.scores, 1, tile.v, at.width}, tile.o, at.width, true);
    }
    for (int64_t i = 0; i < rows; ++i) {
      const float *o = tile.o + i * at.width, inverse = 1.0f / tile.sum[i];
      float* y = t.o + at.query(t.row_begin + i);
      for (int64_t c = 0; c < at.d.D; ++c) y[c] = o[c] * inverse;
      if (t.lse) t.lse[at.stat(t.row_begin + i)] = tile.largest[i] + std::log(tile.sum[i]);
    }
  }

  // ---- backward ----

  struct BackwardTile {
    float *q, *q_panel, *dO, *dO_panel, *k, *k_panel, *v_panel, *dk, *dv;
    float *p, *ds;  // probabilities and the gradients of scores
    float* delta;   // dO · o of each row

    BackwardTile(const Geometry& at, float* scratch) {
      float** tiles[] = {&q, &q_panel, &dO, &dO_panel, &k, &k_panel, &v_panel, &dk, &dv};
      for (float** tile : tiles) {
        *tile = scratch;
        scratch += attention_rows * at.width;
      }
      p = scratch;
      ds = p + attention_rows * keys;
      delta = ds + attention_rows * keys;
    }
  };

  // p = exp(s - lse) and ds = p * (dp - delta), in place of s and dp; 0 where the row does not see the key.
  static void score_gradients(const Geometry& at, const BackwardTile& tile, const float* lse, int64_t t,
                              int64_t rows, int64_t j0) {
    for (int64_t i = 0; i < rows; ++i) {
      float *p = tile.p + i * keys, *ds = tile.ds + i * keys;
      const V shift(lse[at.stat(t + i)]), delta(tile.delta[i]);
      for (int64_t j = at.visible_in_tile(t + i, j0); j < keys; ++j) p[j] = -__builtin_inff();
      for (int64_t j = 0; j < keys; j += w) {
        const V probability = exp<Isa>(load<Isa>(p + j) - shift);
        store<Isa>(p + j, probability);
        store<Isa>(ds + j, probability * (load<Isa>(ds + j) - delta));
      }
    }
  }

  // Adds the query rows [t, t + rows) to dk and dv of the keys [j0, j0 + n) in `tile`, and the keys' share to
  // dq.
  static void backward_tile(const Geometry& at, const AttentionBackwardTask& task, const BackwardTile& tile,
                            int64_t t, int64_t rows, int64_t j0, int64_t n) {
    const int64_t D = at.d.D, width = at.width;
    copy_queries(at, t, rows, task.q, at.d.scale, tile.q);
    copy_queries(at, t, rows, task.dO, 1.0f, tile.dO);
    for (int64_t i = 0; i < rows; ++i)
      tile.delta[i] = Rows<Isa>::dot(D, task.dO + at.query(t + i), task.o + at.query(t + i));
    Pack::pack_rows(rows, D, tile.q, width, rows, tile.q_panel);
    Pack::pack_rows(rows, D, tile.dO, width, rows, tile.dO_panel);
    product<1>(rows, keys, {D, tile.q_panel, rows, tile.k_panel, keys}, tile.p, keys, false);
    product<1>(rows, keys, {D, tile.dO_panel, rows, tile.v_panel, keys}, tile.ds, keys, false);
    score_gradients(at, tile, task.lse, t, rows, j0);
    product<1>(n, width, {rows, tile.p, keys, tile.dO, width}, tile.dv, width, true);
    product<1>(n, width, {rows, tile.ds, keys, tile.q, width}, tile.dk, width, true);
    float* dq = tile.q;  // no longer needed
    product<keys>(rows, width, {n, tile.ds, 1, tile.k, width}, dq, width, false);
    for (int64_t i = 0; i < rows; ++i) {
      float* y = task.dq + at.query(t + i);
      const float* x = dq + i * width;
      for (int64_t c = 0; c < D; ++c) y[c] = at.d.scale * x[c] + (j0 > 0 ? y[c] : 0.0f);
    }
  }

  // One key/value head of one sequence: its keys in order, for each the rows that see it, in order.
  static void backward(const AttentionBackwardTask& task) {
    const Geometry at(*task.d, task.b, task.g);
    const BackwardTile tile(at, task.scratch);
    const int64_t rows_total = at.d.Tq * at.heads;
    for (int64_t j0 = 0; j0 < at.d.Tk; j0 += keys) {
      const int64_t n = at.d.Tk - j0 < keys ? at.d.Tk - j0 : keys;
      copy_keys(at, j0, n, task.k, tile.k);
      Pack::pack_rows(n, at.d.D, task.k + at.key(j0), at.d.kv_stride, keys, tile.k_panel);
      Pack::pack_rows(n, at.d.D, task.v + at.key(j0), at.d.kv_stride, keys, tile.v_panel);
      for (int64_t i = 0; i < n * at.width; ++i) tile.dk[i] = tile.dv[i] = 0.0f;
      for (int64_t t = j0 * at.heads; t < rows_total; t += attention_rows) {
        const int64_t rows = rows_total - t < attention_rows ? rows_total - t : attention_rows;
        backward_tile(at, task, tile, t, rows, j0, n);
      }
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t c = 0; c < at.d.D; ++c) {
          task.dk[at.key(j0 + i) + c] = tile.dk[i * at.width + c];
          task.dv[at.key(j0 + i) + c] = tile.dv[i * at.width + c];
        }
      }
    }
  }
};

}  // namespace gladius::cpu
