// Matrix products: C is cut into rectangles, each of which one thread computes by itself, packing next to
// itself what it needs of B, and of A unless it reads it in place (gemm-inl.h). An element's sum does not
// depend on the rectangle that it is in.
#include <algorithm>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/cpu_blocking.h"
#include "kernels/cpu/quant_kernels.h"
#include "kernels/cpu/weight_panels.h"
#include "kernels/parallel.h"

namespace gladius::cpu {
namespace {

int worthwhile_threads(MatmulDims d, int threads) {
  return d.M * d.N * d.K < gemm_serial_below && d.N * d.K < gemm_serial_below_b ? 1 : threads;
}

// Rows that are packed rather than read where they lie: each is in pages of its own.
bool far_apart(const GemmOperand& A) { return A.k_contiguous && A.stride > gemm_rows_stride; }

// Rows and columns of a rectangle.
struct Rectangle {
  int64_t rows, cols;
};

// The rectangles that take the least time by a simple model: multiplications plus packing, or reading A from
// beyond the second-level cache, which cost as much as multiplying by a few rows or columns more, as does a
// last register tile that is narrower than the others. Rows far apart cost most.
Rectangle best_rectangle(MatmulDims d, const GemmKernel& kernel, const GemmOperand& A, int64_t room,
                         int threads) {
  const double read_a = !kernel.packs_a ? 6 : far_apart(A) ? 40 : 12, pack_b = 12, narrow_tile = 8;
  const int64_t block_floats = gemm_block_k(d.K, kernel.usual_k) / kernel.packed_elements;
  const int64_t cols_with_room = std::max<int64_t>(1, room / block_floats / kernel.cols) * kernel.cols;
  Rectangle best{};
  double least = 0;
  const auto consider = [&](int64_t rows, int64_t cols) {
    const int64_t rounds = ceil_div(ceil_div(d.M, rows) * ceil_div(d.N, cols), threads);
    const double width = static_cast<double>(cols) + read_a + (cols % kernel.cols > 0 ? narrow_tile : 0);
    const double time = static_cast<double>(rounds) * (static_cast<double>(rows) + pack_b) * width;
    if (best.rows > 0 && time >= least) return;
    best = {rows, cols};
    least = time;
  };
  for (int64_t down = 1; down <= std::min<int64_t>(threads, d.M); ++down) {
    if (threads % down != 0) continue;  // not worth a try
    const int64_t rows = ceil_div(d.M, down);
    // Few rows need no more of packed B than a panel; what C they have stays in the cache from block to
    // block.
    const int64_t cols_in_cache = 2 * room / rows / kernel.cols * kernel.cols;
    const bool one_panel = gemm_one_group(rows, block_floats);
    const int64_t most_cols = one_panel ? std::max(cols_with_room, cols_in_cache) : cols_with_room;
    const int64_t least_parts = ceil_div(d.N, most_cols);
    for (int64_t across = least_parts; across <= least_parts + threads / down; ++across) {
      const int64_t cols = ceil_div(d.N, across);
      for (const int64_t unit : {kernel.cols, gemm_cut_cols})
        consider(rows, std::min(ceil_div(cols, unit) * unit, most_cols));
    }
  }
  return best;
}

}  // namespace

const GemmKernel& CpuBackend::gemm_kernel(MatmulDims d, const GemmOperand& A, const GemmOperand& B) const {
  if (d.precision == Precision::bf16) return f_.gemm_bf16;
  if (!A.k_contiguous) {
    // Read where it lies if the lines of a block stay in the cache, and come fast enough.
    const int64_t lines = gemm_block_k(d.K, f_.gemm_lines.usual_k);
    const int64_t stride = A.stride * int64_t{sizeof(float)};
    return A.stride < gemm_lines_stride && cache_.holds(lines, stride) ? f_.gemm_lines : f_.gemm;
  }
  if (d.M == 1 && !B.k_contiguous) return f_.gemm_one_row;
  return far_apart(A) ? f_.gemm : f_.gemm_rows;
}

void CpuBackend::gemm(const GemmKernel& kernel, MatmulDims d, const GemmOperand& A, const GemmOperand& B,
                      float* C, Epilogue e) {
  if (d.M == 0 || d.N == 0) return;
  const int threads = worthwhile_threads(d, threads_);
  const bool rows_in_place = !kernel.packs_a && A.k_contiguous;
  const int64_t room = rows_in_place ? std::min(packed_b_floats_, gemm_rows_packed_b) : packed_b_floats_;
  const auto [rows, cols] = best_rectangle(d, kernel, A, room, threads);
  const int64_t across = ceil_div(d.N, cols), tasks = across * ceil_div(d.M, rows);
  const auto rectangle = [&](int64_t task, int worker) -> GemmTask {
    const int64_t i = task / across * rows, j = task % across * cols;
    return {.rows = std::min(rows, d.M - i),
            .cols = std::min(cols, d.N - j),
            .k = d.K,
            .a = A.from(i, 0),
            .b = B.from(j, 0),
            .c = C + i * d.N + j,
            .c_stride = d.N,
            .add = e.accumulate,
            .residual = e.residual ? e.residual + i * d.N + j : nullptr,
            .scratch = gemm_.data() + worker * (gemm_packed_a_floats + packed_b_floats_)};
  };
  parallel_tasks(threads, tasks, [&](int64_t task, int worker) {
    GemmTask t = rectangle(task, worker), next;
    if (task + threads < tasks) {
      next = rectangle(task + threads, worker);
      t.next = &next;
    }
    kernel.run(t);
  });
}

void CpuBackend::gemm(MatmulDims d, const GemmOperand& A, const GemmOperand& B, float* C, Epilogue e) {
  gemm(gemm_kernel(d, A, B), d, A, B, C, e);
}

void CpuBackend::few_rows_product(MatmulDims d, const float* A, const float* B, float* C, Epilogue e) const {
  const int threads = worthwhile_threads(d, threads_);
  parallel_ranges(threads, d.N, few_rows_cols, [&](int64_t begin, int64_t end) {
    f_.few_rows_tile({.rows = d.M,
                      .cols = end - begin,
                      .k = d.K,
                      .a = A,
                      .a_stride = d.K,
                      .b = reinterpret_cast<const std::byte*>(B + begin * d.K),
                      .b_stride = d.K * int64_t{sizeof(float)},
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
  const bool one_row = d.M == 1;  // its elements are neighbours
  gemm(d, {A, one_row ? d.K : d.M, one_row}, {B, d.N, false}, C, e);
}

// F32 weights are in panels here. A is converted as for any product with such weights.
void CpuBackend::plain_products(MatmulDims d, const float* A, std::span<const WeightProduct> products,
                                Epilogue e) {
  const DType type = products[0].W.dtype;
  const auto operand = [&](const WeightView& W) -> GemmOperand {
    const int64_t bytes = W.panels ? panel_bytes(type, d.K) : row_bytes(type, d.K);
    return {static_cast<const float*>(W.data), bytes / int64_t{sizeof(float)}, true, W.panels};
  };
  // F16 is multiplied as F32, but there is no kernel for it that packs A: rows far apart are copied.
  if (const GemmOperand rows{A, d.K, true}; type == DType::F32 || (type == DType::F16 && !far_apart(rows))) {
    for (const WeightProduct& p : products) {
      const GemmOperand W = operand(p.W);
      const MatmulDims dims{d.M, p.N, d.K};
      gemm(type == DType::F16 ? f_.gemm_f16_weights : gemm_kernel(dims, rows, W), dims, rows, W, p.C, e);
    }
    return;
  }
  const PairKernels& pairs = table_.q.pairs;
  const bool as_pairs = type == DType::BF16 && pairs.gemm.run && quick_bf16_;
  const GemmKernel& kernel = as_pairs             ? pairs.gemm
                             : type == DType::F16 ? f_.gemm_f16_weights
                                                  : f_.gemm_bf16_weights;
  const int64_t a_stride = activation_row_bytes(type, d.K), most_rows = converted_bytes / a_stride;
  const int64_t a_rows = ceil_div(d.M, ceil_div(d.M, most_rows));  // equal passes, each of which reads W
  std::byte* const a = converted_.data();
  for (int64_t m = 0; m < d.M; m += a_rows) {
    const int64_t M = std::min(a_rows, d.M - m);
    parallel_ranges(threads_, M, converted_rows_per_task, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const float* x = A + (m + i) * d.K;
        as_pairs ? pairs.convert(d.K, x, a + i * a_stride)
                 : table_.q.convert_activations(type, d.K, x, a + i * a_stride);
      }
    });
    const GemmOperand rows{reinterpret_cast<const float*>(a), a_stride / int64_t{sizeof(float)}, true};
    for (const WeightProduct& p : products) {
      gemm(kernel, {M, p.N, as_pairs ? d.K / 2 : d.K}, rows, operand(p.W), p.C + m * p.N,
           {e.accumulate, e.residual ? e.residual + m * p.N : nullptr});
    }
  }
}

}  // namespace gladius::cpu
