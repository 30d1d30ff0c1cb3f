// Matrix products: C is cut into rectangles, each of which one thread computes by itself, packing next to
// itself what it needs of B, and of A unless it reads it in place (gemm-inl.h). An element's sum does not
// depend on the rectangle that it is in.
#include <algorithm>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/cpu_blocking.h"
#include "kernels/parallel.h"

namespace gladius::cpu {
namespace {

int worthwhile_threads(MatmulDims d, int threads) {
  return d.M * d.N * d.K < gemm_serial_below && d.N * d.K < gemm_serial_below_b ? 1 : threads;
}

// Rows and columns of a rectangle.
struct Rectangle {
  int64_t rows, cols;
};

// The rectangles that take the least time by a simple model: multiplications, rounded up to register tiles,
// plus packing, which costs as much as multiplying by a few rows or columns more (for A that is read in place
// this stands for reading it from beyond the second-level cache).
Rectangle best_rectangle(MatmulDims d, Rectangle tile, int64_t most_cols, int threads) {
  constexpr double pack_a = 12, pack_b = 12;
  const int64_t tiles_down = ceil_div(d.M, tile.rows), tiles_across = ceil_div(d.N, tile.cols);
  const int64_t most_across = std::max<int64_t>(1, most_cols / tile.cols);
  Rectangle best{};
  double least = 0;
  for (int64_t parts_down = 1; parts_down <= std::min<int64_t>(threads, tiles_down); ++parts_down) {
    for (int64_t parts_across = ceil_div(tiles_across, most_across), tries = 0;
         parts_across <= tiles_across && tries < threads; ++parts_across, ++tries) {
      const int64_t rows = ceil_div(tiles_down, parts_down) * tile.rows;
      const int64_t cols = ceil_div(tiles_across, parts_across) * tile.cols;
      const auto rounds =
          static_cast<double>(ceil_div(ceil_div(d.M, rows) * ceil_div(d.N, cols), std::max(1, threads)));
      const double time =
          rounds * (static_cast<double>(rows) + pack_b) * (static_cast<double>(cols) + pack_a);
      if (best.rows > 0 && time >= least) continue;
      best = {rows, cols};
      least = time;
    }
  }
  return best;
}

}  // namespace

const GemmKernel& CpuBackend::gemm_kernel(const GemmOperand& A, Precision precision) const {
  if (precision == Precision::bf16) return f_.gemm_bf16;
  return A.k_contiguous && A.stride <= gemm_in_place_stride ? f_.gemm_in_place : f_.gemm;
}

void CpuBackend::gemm(MatmulDims d, const GemmOperand& A, const GemmOperand& B, float* C, Epilogue e) {
  if (d.M == 0 || d.N == 0) return;
  const int threads = worthwhile_threads(d, threads_);
  const GemmKernel& kernel = gemm_kernel(A, d.precision);
  const int64_t most_cols = packed_b_floats_ / gemm_block_k(d.K, kernel.most_k);
  const auto [rows, cols] = best_rectangle(d, {kernel.rows, kernel.cols}, most_cols, threads);
  const int64_t across = ceil_div(d.N, cols), tasks = across * ceil_div(d.M, rows);
  parallel_tasks(threads, tasks, [&](int64_t task, int worker) {
    const int64_t i = task / across * rows, j = task % across * cols;
    kernel.run({.rows = std::min(rows, d.M - i),
                .cols = std::min(cols, d.N - j),
                .k = d.K,
                .a = A.from(i, 0),
                .b = B.from(j, 0),
                .c = C + i * d.N + j,
                .c_stride = d.N,
                .add = e.accumulate,
                .residual = e.residual ? e.residual + i * d.N + j : nullptr,
                .scratch = gemm_.data() + worker * (gemm_group_floats + packed_b_floats_)});
  });
}

void CpuBackend::few_rows_product(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) const {
  const int threads = worthwhile_threads(d, threads_);
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
  if (d.M <= few_rows && d.precision == Precision::fp32)
    few_rows_product(d, A, B, C, e);
  else
    gemm(d, {A, d.K, true}, {B, d.K, true}, C, e);
}

void CpuBackend::matmul_nn(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) {
  gemm(d, {A, d.K, true}, {B, d.N, false}, C, e);
}

void CpuBackend::matmul_tn(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) {
  gemm(d, {A, d.M, false}, {B, d.N, false}, C, e);
}

}  // namespace gladius::cpu
