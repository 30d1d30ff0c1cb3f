// The floating-point kernels of one instruction set, as function pointers: pieces of work for one thread.
// cpu_*.cpp cuts an operation of kernels/backend.h into such pieces and says which thread runs which. The
// operation's equations stand there.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/backend.h"

namespace gladius::cpu {

// A factor of a matrix product, rows of A or columns of B. Its element (i, p), p along the summed dimension,
// is data[i * stride + p] if k_contiguous, else data[p * stride + i]. Or it is a weight in panels
// (weight_panels.h), `stride` floats each, from row `row` and line `line` on.
struct GemmOperand {
  const float* data = nullptr;
  int64_t stride = 0;
  bool k_contiguous = true;
  bool panels = false;
  int64_t row = 0, line = 0;

  __attribute__((always_inline)) GemmOperand from(int64_t i, int64_t p) const {
    if (panels) return {data, stride, k_contiguous, panels, row + i, line + p};
    return {data + (k_contiguous ? i * stride + p : p * stride + i), stride, k_contiguous};
  }
};

// C[rows, cols] (+)= A·B (+ residual), summed over k: what one thread does at a time.
struct GemmTask {
  int64_t rows, cols, k;
  GemmOperand a, b;
  float* c;
  int64_t c_stride;       // of c and of residual
  bool add;               // C is added to rather than overwritten
  const float* residual;  // added when not null
  // gemm_packed_a_floats, and `cols` in whole register tiles × a block's packed floats; one such tile where
  // all rows are one group.
  float* scratch;
  const GemmTask* next = nullptr;  // what the same thread will probably do next
};

// A kernel for such tasks.
struct GemmKernel {
  void (*run)(const GemmTask&);
  bool packs_a;
  int64_t rows, cols;       // of its register tile
  int64_t usual_k;          // of the summed dimension at a time
  int64_t packed_elements;  // in a float
};

// Floats of a row in a block, usually and at most (gemm_block_k), of kernels that pack A or read lines of it.
inline constexpr int64_t gemm_packed_k = 256, gemm_most_packed_k = gemm_packed_k / 2 * 3;
inline constexpr int64_t gemm_most_rows = 16;  // of any instruction set's register tile
// Rows of A that are multiplied by all panels of B in turn: all of them where a block of them is at most so
// large, else groups of this many register tiles, or a few more. Packed, the last tile is as high as the
// others.
inline constexpr int64_t gemm_group_panels = 8, gemm_group_floats = 32 * gemm_most_rows * gemm_packed_k,
                         gemm_packed_a_floats = gemm_group_floats + gemm_most_rows * gemm_most_packed_k;
__attribute__((always_inline)) constexpr bool gemm_one_group(int64_t rows, int64_t block_floats) {
  return rows * block_floats <= gemm_group_floats;
}

// Inlined everywhere, so that no instruction set's copy is another's.
__attribute__((always_inline)) constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
__attribute__((always_inline)) constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
__attribute__((always_inline)) constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// The summed dimension is cut into k / usual_k blocks, rounded (a half down): none is longer than half as
// long again. Whole cache lines of rows of floats, but for a shorter last one. A function of k and of the
// kernel alone, because it decides in which order products are added.
__attribute__((always_inline)) constexpr int64_t gemm_block_k(int64_t k, int64_t usual_k) {
  const int64_t blocks = larger(1, ceil_div(2 * k - usual_k, 2 * usual_k));
  return larger(1, ceil_div(ceil_div(k, blocks), 16)) * 16;
}

// C[rows, cols] = A[rows, k] · B[cols, k]ᵀ for at most few_rows rows of A, reading B once and as it lies. B
// is F32 for few_rows_tile.
struct FewRowsTile {
  int64_t rows, cols, k;
  const float* a;
  int64_t a_stride;
  const std::byte* b;
  int64_t b_stride;  // bytes
  float* c;
  int64_t c_stride;  // of c and of residual
  bool add;
  const float* residual;  // added when not null
};

inline constexpr int64_t few_rows = 8;

// Keys and values that lie in blocks (KvCacheView): where the blocks of one sequence are. widen makes n
// elements floats.
struct CachedKeys {
  KvCacheView cache;
  int64_t G, row_bytes;  // a row is a token's D elements
  const int32_t* blocks;
  void (*widen)(DType dtype, int64_t n, const void* x, float* y);
};

// The query rows of one key/value head are numbered t = i * (H/G) + (h mod H/G): the heads of a group share
// its keys, so they are rows of the same small matrix products. A task is the rows [row_begin, row_end) of
// sequence b, group g. A few rows (at most few_rows) may attend to some of their keys only: what they make of
// them is then `partial` [attention_partial_floats], which attention_merge adds up.
struct AttentionTask {
  const AttentionDims* d;
  int64_t b, g;
  int64_t row_begin, row_end;
  const float *q, *k, *v;
  float *o, *lse;
  float* scratch;                              // attention_scratch floats
  const CachedKeys* cached = nullptr;          // instead of k and v; b is 0 and kv_stride D
  int64_t key_begin = 0, key_end = INT64_MAX;  // key_begin a multiple of attention_keys
  float* partial = nullptr;                    // instead of o and lse
};

struct AttentionBackwardTask {
  const AttentionDims* d;
  int64_t b, g;
  const float *q, *k, *v, *o, *lse, *dO;
  float *dq, *dk, *dv;
  float* scratch;
};

inline constexpr int64_t attention_rows = 96;   // query rows of a tile
inline constexpr int64_t attention_keys = 144;  // keys of a tile: whole vectors
static_assert(attention_keys == kv_block_tokens);
inline constexpr int64_t attention_max_width = 256;  // widest head that the tiled kernels take
// Five tiles of rows and one of keys by head width, two of scores, and a few values a row.
inline constexpr int64_t attention_scratch = (5 * attention_rows + attention_keys) * attention_max_width +
                                             2 * attention_rows * attention_keys + 8 * attention_rows;
// A few rows' values so far, their largest scores and their sums.
inline constexpr int64_t attention_partial_floats = few_rows * (attention_max_width + 2);

// The gradients of RMSNorm from some rows: their dx, and what they add to dw. Either's data may be null.
struct NormBackwardTask {
  int64_t rows, C;
  const float *x, *w, *r, *dy;
  GradTarget dx, dw;
};

// A loop of independent multiply-adds, to measure what a core can do at most (peak-inl.h).
struct PeakKernel {
  int64_t flops_per_round;
  float (*multiply_adds)(int64_t rounds);
};

struct FloatKernels {
  // ---- matrix products (gemm-inl.h) ----
  GemmKernel gemm;          // packs A
  GemmKernel gemm_bf16;     // packs A, factors rounded to BF16
  GemmKernel gemm_rows;     // reads A where it lies, contiguous along k,
  GemmKernel gemm_lines;    // or across k, unless tiles are low: then packs it, too
  GemmKernel gemm_one_row;  // one row, contiguous along k, by B contiguous across k
  // Read A where it lies, contiguous along k; B is such halves, read as words of two, k even.
  GemmKernel gemm_f16_weights, gemm_bf16_weights;
  void (*few_rows_tile)(const FewRowsTile&);

  // ---- attention (attention-inl.h, attention_backward-inl.h) ----
  void (*attention)(const AttentionTask&);
  // Writes o of a task from the partial results of its keys' pieces, attention_partial_floats apart.
  void (*attention_merge)(const AttentionTask&, int64_t pieces, const float* partials);
  void (*attention_backward)(const AttentionBackwardTask&);

  // ---- rows (rows-inl.h) ----
  void (*rms_norm)(int64_t rows, int64_t C, float eps, const float* x, const float* w, float* y, float* r);
  void (*rms_norm_backward)(const NormBackwardTask&);
  // One row of d.heads heads.
  void (*rope)(const RopeDims& d, const float* cos, const float* sin, RopeDirection direction, const float* x,
               float* y);
  void (*softmax)(int64_t N, const float* x, float* y);
  void (*softmax_backward)(int64_t N, const float* y, const float* dy, float* dx);
  // The loss of one row of logits; with `gradient`, z becomes grad_scale * (softmax(z) - [v = target]).
  float (*cross_entropy)(int64_t V, float* z, int32_t target, float grad_scale, bool gradient);

  // ---- elementwise (elementwise-inl.h) ----
  void (*swiglu)(int64_t n, const float* g, const float* u, float* y);
  void (*swiglu_backward)(int64_t n, const float* g, const float* u, const float* dy, float* dg, float* du);
  void (*adamw)(int64_t n, const AdamWStep& s, const float* grad, float* p, float* m, float* v);
  double (*sum_of_squares)(int64_t n, const float* x);
  void (*add)(int64_t n, const float* a, const float* b, float* y);

  // ---- what a core can do at most (peak-inl.h) ----
  PeakKernel peak, peak_bf16;
  float (*read)(int64_t n, const float* x);
};

}  // namespace gladius::cpu
