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

// The rectangles that take the least time by a simple model: multiplications plus packing, which costs as
// much as multiplying by a few rows or columns more (for A that is read in place this stands for reading it
// from beyond the second-level cache), as does a last register tile that is narrower than the others.
Rectangle best_rectangle(MatmulDims d, const GemmKernel& kernel, int64_t room, int threads) {
  constexpr double pack_a = 12, pack_b = 12, narrow_tile = 8;
  const int64_t block_k = gemm_block_k(d.K, kernel.most_k);
  const int64_t most_cols = std::max<int64_t>(1, room / block_k / kernel.cols) * kernel.cols;
  const int64_t least_parts = ceil_div(d.N, most_cols);
  Rectangle best{};
  double least = 0;
  const auto consider = [&](int64_t rows, int64_t cols) {
    const int64_t rounds = ceil_div(ceil_div(d.M, rows) * ceil_div(d.N, cols), threads);
    const double width = static_cast<double>(cols) + pack_a + (cols % kernel.cols > 0 ? narrow_tile : 0);
    const double time = static_cast<double>(rounds) * (static_cast<double>(rows) + pack_b) * width;
    if (best.rows > 0 && time >= least) return;
    best = {rows, cols};
    least = time;
  };
  for (int64_t down = 1; down <= std::min<int64_t>(threads, d.M); ++down) {
    if (threads % down != 0) continue;  // not worth a try
    for (int64_t across = least_parts; across <= least_parts + threads / down; ++across) {
      const int64_t rows = ceil_div(d.M, down), cols = ceil_div(d.N, across);
      for (const int64_t unit : {kernel.cols, gemm_cut_cols})
        consider(rows, std::min(ceil_div(cols, unit) * unit, most_cols));
    }
  }
  return best;
}

}  // namespace

const GemmKernel& CpuBackend::gemm_kernel(MatmulDims d, const GemmOperand& A, const GemmOperand& B) const {
  if (d.precision == Precision::bf16) return f_.gemm_bf16;
  if (!A.k_contiguous) return A.stride <= gemm_lines_stride ? f_.gemm_lines : f_.gemm;
  if (d.M == 1 && !B.k_contiguous) return f_.gemm_one_row;
  return A.stride <= gemm_rows_stride ? f_.gemm_rows : f_.gemm;
}

void CpuBackend::gemm(MatmulDims d, const GemmOperand& A, const GemmOperand& B, float* C, int64_t c_stride,
                      Epilogue e) {
  if (d.M == 0 || d.N == 0) return;
  const int threads = worthwhile_threads(d, threads_);
  const GemmKernel& kernel = gemm_kernel(d, A, B);
  const auto [rows, cols] = best_rectangle(d, kernel, packed_b_floats_, threads);
  const int64_t across = ceil_div(d.N, cols), tasks = across * ceil_div(d.M, rows);
  parallel_tasks(threads, tasks, [&](int64_t task, int worker) {
    const int64_t i = task / across * rows, j = task % across * cols;
    kernel.run({.rows = std::min(rows, d.M - i),
                .cols = std::min(cols, d.N - j),
                .k = d.K,
                .a = A.from(i, 0),
                .b = B.from(j, 0),
                .c = C + i * c_stride + j,
                .c_stride = c_stride,
                .add = e.accumulate,
                .residual = e.residual ? e.residual + i * c_stride + j : nullptr,
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
    gemm(d, {A, d.K, true}, {B, d.K, true}, C, d.N, e);
}

void CpuBackend::matmul_nn(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) {
  gemm(d, {A, d.K, true}, {B, d.N, false}, C, d.N, e);
}

void CpuBackend::matmul_tn(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) {
  const bool one_row = d.M == 1;  // its elements are neighbours
  gemm(d, {A, one_row ? d.K : d.M, one_row}, {B, d.N, false}, C, d.N, e);
}

bool CpuBackend::widens(MatmulDims d, WeightView W) const {
  return (W.dtype == DType::F16 || W.dtype == DType::BF16) && d.M > few_rows && d.K > 0 &&
         d.K <= widened_floats / least_widened_rows;
}

// Some rows of W at a time are made floats, A is rounded as for any product with such weights; the products
// of 16-bit values are exact in floats.
void CpuBackend::widened_product(MatmulDims d, const float* A, WeightView W, float* C, Epilogue e) {
  const int64_t w_rows = widened_floats / d.K, row = row_bytes(W.dtype, d.K);
  const int64_t a_rows = std::min<int64_t>(d.M, converted_bytes / (d.K * int64_t{sizeof(float) + 2}));
  float* const floats = reinterpret_cast<float*>(converted_.data());
  auto* const halves = reinterpret_cast<uint16_t*>(floats + a_rows * d.K);
  for (int64_t m = 0; m < d.M; m += a_rows) {
    const int64_t M = std::min(a_rows, d.M - m);
    parallel_ranges(threads_, M, widened_rows_per_task, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        table_.q.quantize_row(W.dtype, d.K, A + (m + i) * d.K, nullptr, halves + i * d.K);
        table_.q.dequantize_row(W.dtype, d.K, halves + i * d.K, floats + i * d.K);
      }
    });
    for (int64_t n = 0; n < d.N; n += w_rows) {
      const int64_t N = std::min(w_rows, d.N - n);
      parallel_ranges(threads_, N, widened_rows_per_task, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
          table_.q.dequantize_row(W.dtype, d.K, static_cast<const std::byte*>(W.data) + (n + i) * row,
                                  widened_.data() + i * d.K);
      });
      const int64_t at = m * d.N + n;
      gemm({M, N, d.K}, {floats, d.K, true}, {widened_.data(), d.K, true}, C + at, d.N,
           {e.accumulate, e.residual ? e.residual + at : nullptr});
    }
  }
}

}  // namespace gladius::cpu
