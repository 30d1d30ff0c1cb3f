// Matrix products: blocks of both factors are packed into panels, then tiles of the output are computed from
// them. Blocks are shared by all threads, so every element is packed once; the borders of tiles depend on the
// shape alone.
#include <algorithm>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/cpu_blocking.h"
#include "kernels/parallel.h"

namespace gladius::cpu {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

// C[rows, cols] (+)= packed A · packed B, summed over k.
struct CpuBackend::GemmBlock {
  const float *a, *b;
  int64_t rows, cols, k;
  int64_t panel_rows;
  float* c;
  int64_t c_stride;
  bool add;
  const float* residual;
};

void CpuBackend::pack(Strided x, int64_t n, int64_t k, int64_t width, float* y, int threads) const {
  parallel_tasks(threads, ceil_div(n, width), [&](int64_t panel, int) {
    const int64_t i = panel * width;
    f_.pack(std::min(width, n - i), k, x.data + i * x.i_stride, x.i_stride, x.k_stride, width, y + i * k);
  });
}

void CpuBackend::multiply(const GemmBlock& block, int threads) const {
  const int64_t tile_rows = std::max<int64_t>(1, gemm_tile_rows / block.panel_rows) * block.panel_rows;
  const int64_t tile_cols = gemm_tile_cols / f_.gemm_cols * f_.gemm_cols;
  const int64_t across = ceil_div(block.cols, tile_cols);
  parallel_tasks(threads, ceil_div(block.rows, tile_rows) * across, [&](int64_t task, int) {
    const int64_t i = task / across * tile_rows, j = task % across * tile_cols, at = i * block.c_stride + j;
    f_.gemm_tile({.rows = std::min(tile_rows, block.rows - i),
                  .cols = std::min(tile_cols, block.cols - j),
                  .k = block.k,
                  .panel_rows = block.panel_rows,
                  .a = block.a + i * block.k,
                  .b = block.b + j * block.k,
                  .c = block.c + at,
                  .c_stride = block.c_stride,
                  .add = block.add,
                  .residual = block.residual ? block.residual + at : nullptr});
  });
}

void CpuBackend::gemm(MatmulDims d, Strided A, Strided B, float* C, Epilogue e) {
  const int threads = d.M * d.N * d.K < gemm_serial_below ? 1 : threads_;
  int64_t k0 = 0;
  do {  // at least once: a product over nothing is 0
    const int64_t outer_k = std::min(gemm_outer_k, d.K - k0);
    for (int64_t i0 = 0; i0 < d.M; i0 += gemm_block_rows) {
      const int64_t rows = std::min(gemm_block_rows, d.M - i0);
      // Panels of equal height rather than full ones and a rest: nothing is multiplied in vain.
      const int64_t panels = ceil_div(rows, f_.gemm_rows), panel_rows = ceil_div(rows, panels);
      const int64_t padded_rows = ceil_div(rows, panel_rows) * panel_rows;
      for (int64_t p = 0; p < outer_k; p += gemm_block_k) {
        const Strided a{A.data + i0 * A.i_stride + (k0 + p) * A.k_stride, A.i_stride, A.k_stride};
        pack(a, rows, std::min(gemm_block_k, outer_k - p), panel_rows, packed_a_.data() + p * padded_rows,
             threads);
      }
      for (int64_t j0 = 0; j0 < d.N; j0 += gemm_block_cols) {
        const int64_t cols = std::min(gemm_block_cols, d.N - j0);
        int64_t p = 0;
        do {
          const int64_t k = std::min(gemm_block_k, outer_k - p), at = i0 * d.N + j0;
          const Strided b{B.data + j0 * B.i_stride + (k0 + p) * B.k_stride, B.i_stride, B.k_stride};
          pack(b, cols, k, f_.gemm_cols, packed_b_.data(), threads);
          const bool first = k0 + p == 0, last = k0 + p + k >= d.K;
          multiply({.a = packed_a_.data() + p * padded_rows,
                    .b = packed_b_.data(),
                    .rows = rows,
                    .cols = cols,
                    .k = k,
                    .panel_rows = panel_rows,
                    .c = C + at,
                    .c_stride = d.N,
                    .add = !first || e.accumulate,
                    .residual = last && e.residual ? e.residual + at : nullptr},
                   threads);
          p += k;
        } while (p < outer_k);
      }
    }
    k0 += outer_k;
  } while (k0 < d.K);
}

void CpuBackend::few_rows_product(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) const {
  const int threads = d.M * d.N * d.K < gemm_serial_below ? 1 : threads_;
  parallel_ranges(threads, d.N, few_rows_cols, [&](int64_t begin, int64_t end) {
    f_.few_rows_tile({.rows = d.M,
                      .cols = end - begin,
                      .k = d.K,
                      .a = A,
                      .a_stride = d.K,
                      .b = B + begin * d.K,
                      .b_stride = d.K,
                      .c = C + begin,
                      .c_stride = d.N,
                      .add = e.accumulate,
                      .residual = e.residual ? e.residual + begin : nullptr});
  });
}

void CpuBackend::matmul_nt(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) {
  if (d.M == 0) return;
  if (d.M <= few_rows)
    few_rows_product(d, A, B, C, e);
  else
    gemm(d, {A, d.K, 1}, {B, d.K, 1}, C, e);
}

void CpuBackend::matmul_nn(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) {
  gemm(d, {A, d.K, 1}, {B, 1, d.N}, C, e);
}

void CpuBackend::matmul_tn(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) {
  gemm(d, {A, 1, d.M}, {B, 1, d.N}, C, e);
}

}  // namespace gladius::cpu
