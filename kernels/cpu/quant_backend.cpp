#include "kernels/cpu/quant_backend.h"

#include <algorithm>

#include "kernels/parallel.h"

namespace gladius::cpu {
namespace {

constexpr int64_t weight_rows_per_tile = 64;    // a multiple of every instruction set's panel
constexpr int64_t elements_per_task = 1 << 14;  // of a row-wise conversion

int64_t rows_per_task(int64_t cols) {
  return std::max<int64_t>(1, elements_per_task / std::max<int64_t>(1, cols));
}

}  // namespace

size_t quantized_scratch_bytes(DType weight, int64_t M, int64_t K) {
  return static_cast<size_t>(M * activation_row_bytes(weight, K));
}

void matmul_quantized(const QuantKernels& kernels, int threads, MatmulDims d, const float* A, WeightView W,
                      float* C, Epilogue e, std::span<std::byte> scratch) {
  const int64_t a_bytes = activation_row_bytes(W.dtype, d.K);
  const int64_t w_bytes = row_bytes(W.dtype, d.K);
  const int64_t pass_rows =
      std::max<int64_t>(1, static_cast<int64_t>(scratch.size()) / std::max<int64_t>(1, a_bytes));
  const int64_t w_tiles = (d.N + weight_rows_per_tile - 1) / weight_rows_per_tile;
  for (int64_t pass = 0; pass < d.M; pass += pass_rows) {
    const int64_t rows = std::min(pass_rows, d.M - pass);
    parallel_ranges(threads, rows, rows_per_task(d.K), [&](int64_t begin, int64_t end) {
      for (int64_t m = begin; m < end; ++m)
        kernels.convert_activations(W.dtype, d.K, A + (pass + m) * d.K, scratch.data() + m * a_bytes);
    });
    const int64_t a_tiles = (rows + max_tile_activations - 1) / max_tile_activations;
    parallel_tasks(threads, w_tiles * a_tiles, [&](int64_t task, int) {
      const int64_t n = task / a_tiles * weight_rows_per_tile, m = task % a_tiles * max_tile_activations;
      const int64_t offset = (pass + m) * d.N + n;
      kernels.matmul_tile(W.dtype, {.K = d.K,
                                    .w = static_cast<const std::byte*>(W.data) + n * w_bytes,
                                    .w_rows = std::min(weight_rows_per_tile, d.N - n),
                                    .a = scratch.data() + m * a_bytes,
                                    .a_rows = std::min(max_tile_activations, rows - m),
                                    .out = C + offset,
                                    .ldo = d.N,
                                    .accumulate = e.accumulate,
                                    .residual = e.residual ? e.residual + offset : nullptr});
    });
  }
}

void quantize(const QuantKernels& kernels, int threads, DType dtype, int64_t rows, int64_t cols,
              const float* x, const float* importance, void* y) {
  const int64_t bytes = row_bytes(dtype, cols);
  parallel_ranges(threads, rows, rows_per_task(cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      kernels.quantize_row(dtype, cols, x + r * cols, importance, static_cast<std::byte*>(y) + r * bytes);
  });
}

void dequantize(const QuantKernels& kernels, int threads, DType dtype, int64_t rows, int64_t cols,
                const void* x, float* y) {
  const int64_t bytes = row_bytes(dtype, cols);
  parallel_ranges(threads, rows, rows_per_task(cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      kernels.dequantize_row(dtype, cols, static_cast<const std::byte*>(x) + r * bytes, y + r * cols);
  });
}

}  // namespace gladius::cpu
