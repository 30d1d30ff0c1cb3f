// Matrix products from packed panels, after Goto & van de Geijn 2008 ("Anatomy of high-performance matrix
// multiplication") and BLIS (Van Zee & van de Geijn 2015): a register tile of gemm_rows × gemm_vectors
// accumulators walks the summed dimension.
#pragma once

#include <utility>

#include "kernels/cpu/float_kernels.h"
#include "kernels/cpu/simd.h"

namespace gladius::cpu {

// What happens to a register tile's sums: C is added to rather than overwritten; residual (stride as C) is
// added when not null.
struct TileStore {
  bool add;
  const float* residual;
};

// C[R, gemm_cols] (+)= A·B (+ residual). Element (i, p) of A is a[i * RowStride + p * a_step], row p of B is
// at b + p * b_step: RowStride 1 reads panels and transposes, another one reads rows of a fixed-size tile.
template <class Isa, int R, int RowStride>
struct MicroTile {
  using V = Vec<Isa>;
  static constexpr int vectors = Isa::gemm_vectors;

  static void run(int64_t k, const float* a, int64_t a_step, const float* b, int64_t b_step, float* c,
                  int64_t c_stride, TileStore to) {
    V sums[R][vectors];
#pragma GCC unroll 64
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < vectors; ++j) sums[i][j] = V(0.0f);
    for (int64_t p = 0; p < k; ++p, a += a_step, b += b_step) {
      V columns[vectors];
#pragma GCC unroll 8
      for (int j = 0; j < vectors; ++j) columns[j] = load<Isa>(b + j * lanes<Isa>);
#pragma GCC unroll 64
      for (int i = 0; i < R; ++i) {
        const V row(a[i * RowStride]);
#pragma GCC unroll 8
        for (int j = 0; j < vectors; ++j) sums[i][j] = Isa::fma(row, columns[j], sums[i][j]);
      }
    }
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

using MicroTileFunction = void (*)(int64_t, const float*, int64_t, const float*, int64_t, float*, int64_t,
                                   TileStore);

// micro_tiles<Isa, RowStride>.of_rows[R - 1] computes R rows.
template <class Isa>
struct MicroTileTable {
  MicroTileFunction of_rows[Isa::gemm_rows];
};
template <class Isa, int RowStride, size_t... I>
constexpr MicroTileTable<Isa> make_micro_tiles(std::index_sequence<I...>) {
  return {{&MicroTile<Isa, static_cast<int>(I) + 1, RowStride>::run...}};
}
template <class Isa, int RowStride>
inline constexpr MicroTileTable<Isa> micro_tiles =
    make_micro_tiles<Isa, RowStride>(std::make_index_sequence<Isa::gemm_rows>());

template <class Isa>
struct Gemm {
  using V = Vec<Isa>;
  static constexpr int64_t w = lanes<Isa>;
  static constexpr int64_t cols = Isa::gemm_vectors * w;

  static void pack(int64_t n, int64_t k, const float* x, int64_t i_stride, int64_t k_stride, int64_t width,
                   float* y) {
    for (int64_t i0 = 0; i0 < n; i0 += width, x += width * i_stride, y += width * k) {
      const int64_t count = n - i0 < width ? n - i0 : width;
      if (i_stride == 1) {
        for (int64_t p = 0; p < k; ++p) pack_line(count, width, x + p * k_stride, y + p * width);
        continue;
      }
      if (k_stride == 1) {
        pack_transposed(count, k, x, i_stride, width, y);
        continue;
      }
      for (int64_t p = 0; p < k; ++p)
        for (int64_t i = 0; i < width; ++i)
          y[p * width + i] = i < count ? x[i * i_stride + p * k_stride] : 0.0f;
    }
  }

  static void gemm_tile(const GemmTile& t) {
    for (int64_t j = 0; j < t.cols; j += cols) {
      const float* b = t.b + j * t.k;
      const int64_t n = t.cols - j < cols ? t.cols - j : cols;
      for (int64_t i = 0; i < t.rows; i += t.panel_rows) {
        const int64_t m = t.rows - i < t.panel_rows ? t.rows - i : t.panel_rows;
        const float* a = t.a + i * t.k;
        const int64_t at = i * t.c_stride + j;
        const float* residual = t.residual ? t.residual + at : nullptr;
        const MicroTileFunction micro = micro_tiles<Isa, 1>.of_rows[m - 1];
        if (n == cols) {
          micro(t.k, a, t.panel_rows, b, cols, t.c + at, t.c_stride, {t.add, residual});
          continue;
        }
        // A partial tile is computed whole, aside, and its columns within C are copied out.
        alignas(64) float whole[Isa::gemm_rows * cols];
        micro(t.k, a, t.panel_rows, b, cols, whole, cols, {false, nullptr});
        store_partial(t, m, n, whole, t.c + at, residual);
      }
    }
  }

  static void few_rows_tile(const FewRowsTile& t) { few_rows_functions[t.rows - 1](t); }

 private:
  static GLADIUS_INLINE void pack_line(int64_t count, int64_t width, const float* x, float* y) {
    int64_t i = 0;
    for (; i + w <= count; i += w) store<Isa>(y + i, load<Isa>(x + i));
    for (; i < count; ++i) y[i] = x[i];
    for (; i < width; ++i) y[i] = 0.0f;
  }

  // One panel from rows that are contiguous along k: squares of vectors are transposed in registers.
  static void pack_transposed(int64_t count, int64_t k, const float* x, int64_t i_stride, int64_t width,
                              float* y) {
    int64_t p = 0;
    for (; p + w <= k; p += w) {
      for (int64_t i0 = 0; i0 < width; i0 += w) {
        RawVector<w> square[w];
#pragma GCC unroll 16
        for (int64_t i = 0; i < w; ++i) {
          square[i] = RawVector<w>{};
          if (i0 + i < count) __builtin_memcpy(&square[i], x + (i0 + i) * i_stride + p, sizeof(square[i]));
        }
        transpose<w>(square);
        store_square(square, width - i0, y + p * width + i0, width, y + k * width);
      }
    }
    for (; p < k; ++p)
      for (int64_t i = 0; i < width; ++i) y[p * width + i] = i < count ? x[i * i_stride + p] : 0.0f;
  }

  // Stores min(n, w) lanes of each row. Where a panel is narrower than a vector, whole vectors may be stored,
  // because the next row overwrites what is too much, but not past the panel's end.
  static GLADIUS_INLINE void store_square(const RawVector<w>* square, int64_t n, float* y, int64_t width,
                                          const float* end) {
    const bool whole = n >= w || width < w;
#pragma GCC unroll 16
    for (int64_t i = 0; i < w; ++i, y += width) {
      if (whole && y + w <= end) {
        __builtin_memcpy(y, &square[i], sizeof(square[i]));
      } else {
        float lanes_of[w];
        __builtin_memcpy(lanes_of, &square[i], sizeof(lanes_of));
        for (int64_t j = 0; j < n && j < w; ++j) y[j] = lanes_of[j];
      }
    }
  }

  static void store_partial(const GemmTile& t, int64_t rows, int64_t n, const float* whole, float* c,
                            const float* residual) {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        const int64_t at = i * t.c_stride + j;
        float sum = whole[i * cols + j];
        if (t.add) sum += c[at];
        if (residual) sum += residual[at];
        c[at] = sum;
      }
    }
  }

  // R rows of A against Columns rows of B at once: each vector of A or B is loaded once for several products.
  template <int R, int Columns>
  static void few_rows_block(const FewRowsTile& t, int64_t column) {
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
  static void few_rows_of(const FewRowsTile& t) {
    constexpr int columns = R == 1 ? 8 : R <= 3 ? 4 : 2;
    int64_t j = 0;
    for (; j + columns <= t.cols; j += columns) few_rows_block<R, columns>(t, j);
    for (; j < t.cols; ++j) few_rows_block<R, 1>(t, j);
  }

  static constexpr void (*few_rows_functions[few_rows])(const FewRowsTile&) = {
      &few_rows_of<1>, &few_rows_of<2>, &few_rows_of<3>, &few_rows_of<4>,
      &few_rows_of<5>, &few_rows_of<6>, &few_rows_of<7>, &few_rows_of<8>};
};

}  // namespace gladius::cpu
