// The backward pass of causal attention, in the tiles of the forward pass (attention-inl.h). Probabilities
// are computed anew from scores and lse.
#pragma once

#include "kernels/cpu/attention-inl.h"
#include "kernels/cpu/float_kernels.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/simd.h"

namespace gladius::cpu {

template <class Isa>
struct AttentionBackward {
  using V = Vec<Isa>;
  using Geometry = AttentionGeometry<Isa>;
  using Tiles = AttentionTiles<Isa>;
  static constexpr int64_t w = lanes<Isa>;
  static constexpr int64_t R = attention_rows, P = Tiles::P;

  // One key/value head of one sequence: its query rows in order, for each tile of them the keys in order.
  static void run(const AttentionBackwardTask& task) {
    const Geometry at(*task.d, task.b, task.g);
    const Tile tile(at, task.scratch);
    for (int64_t j = 0; j < at.d.Tk; ++j)
      for (int64_t c = 0; c < at.d.D; ++c) task.dk[at.key(j) + c] = task.dv[at.key(j) + c] = 0.0f;
    const int64_t rows_total = at.d.Tq * at.heads;
    for (int64_t t = 0; t < rows_total; t += R) {
      const int64_t rows = smaller(R, rows_total - t);
      load_rows(at, task, tile, t, rows);
      const int64_t end = at.visible_keys(t + rows - 1);
      for (int64_t j0 = 0; j0 < end; j0 += attention_keys)
        key_tile(at, task, tile, t, rows, j0, smaller(attention_keys, end - j0));
      for (int64_t i = 0; i < rows; ++i) {
        float* y = task.dq + at.query(t + i);
        for (int64_t c = 0; c < at.d.D; ++c) y[c] = at.d.scale * tile.dq[i * at.width + c];
      }
    }
  }

 private:
  struct Tile {
    float *q, *dO, *dq;         // [R][width]
    float *q_panel, *dO_panel;  // [panel][D][P]
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
    Tiles::pack_panels(at, rows, tile.q, tile.q_panel);
    Tiles::pack_panels(at, rows, tile.dO, tile.dO_panel);
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
    for (int64_t p = 0; p < rows; p += P) {
      const int64_t visible = Tiles::visible(at, t + smaller(p + P, rows), j0, n);
      Tiles::clear(visible, n, tile.p + p);
      Tiles::clear(visible, n, tile.ds + p);
      if (visible == 0) continue;
      Tiles::scores(at, tile.q_panel + p * D, at.lie(task.k, j0), visible, tile.p + p);
      Tiles::scores(at, tile.dO_panel + p * D, at.lie(task.v, j0), visible, tile.ds + p);
      Tiles::hide_future(at, t + p, j0, visible, tile.p + p);
      score_gradients(tile, p, visible);
    }
    // dv[key] += p[key][row] · dO[row], dk[key] += ds[key][row] · q[row], dq[row] += ds[key][row]ᵀ · k[key]
    const auto seeing = [&](int64_t j, int64_t) {
      return typename Tiles::Range{larger(0, at.first_row(j0 + j) - t), rows};
    };
    Tiles::template product<Isa, true>(n, D, {rows, tile.p, R, 1, tile.dO, at.width}, task.dv + at.key(j0),
                                       at.d.kv_stride, true, seeing);
    Tiles::template product<Isa, true>(n, D, {rows, tile.ds, R, 1, tile.q, at.width}, task.dk + at.key(j0),
                                       at.d.kv_stride, true, seeing);
    Tiles::mix(at, t, rows, j0, n, tile.ds, at.key_lines(j0, n, task.k, tile.k), tile.dq);
  }

  // For the panel of rows from `row` on, in place of scores and of dO · v: p = exp(s - lse),
  // ds = p * (dO · v - delta).
  static void score_gradients(const Tile& tile, int64_t row, int64_t n) {
    constexpr int vectors = Tiles::vectors;
    V lse[vectors], delta[vectors];
    for (int v = 0; v < vectors; ++v) {
      lse[v] = load<Isa>(tile.lse + row + v * w);
      delta[v] = load<Isa>(tile.delta + row + v * w);
    }
    for (int64_t j = 0; j < n; ++j) {
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) {
        const int64_t x = j * R + row + v * w;
        const V p = exp_below_overflow<Isa>(load<Isa>(tile.p + x) - lse[v]);
        store<Isa>(tile.p + x, p);
        store<Isa>(tile.ds + x, p * (load<Isa>(tile.ds + x) - delta[v]));
      }
    }
  }
};

}  // namespace gladius::cpu
