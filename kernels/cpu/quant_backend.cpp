#include "kernels/cpu/quant_backend.h"

#include <algorithm>

#include "kernels/blocks.h"
#include "kernels/cpu/quant_panels.h"
#include "kernels/parallel.h"

namespace gladius::cpu {
namespace {

constexpr int64_t weight_rows_per_tile = 64;  // a multiple of every instruction set's register tile
static_assert(weight_rows_per_tile % panel_rows == 0);
constexpr int64_t elements_per_task = 1 << 14;  // of a row-wise conversion

int64_t rows_per_task(int64_t cols) {
  return std::max<int64_t>(1, elements_per_task / std::max<int64_t>(1, cols));
}

}  // namespace

int64_t activation_row_bytes(DType weight, int64_t K) {
  int64_t bytes = 4 * K;
  switch (dtype_info(weight).dot_with) {
    case DType::Q8_0:
      bytes = K + K / kBlock * 8;
      break;
    case DType::Q8_1:
      bytes = K + K / kBlock * 12;
      break;
    case DType::Q8_K:
      bytes = K + K / kSuperBlock * 4 + K / 16 * 2 + K / 32 * 2;
      break;
    default:
      break;
  }
  return ((bytes + 63) / 64 | 1) * 64;  // at most max_activation_row_bytes(K)
}

size_t quantized_scratch_bytes(DType weight, int64_t M, int64_t K) {
  return static_cast<size_t>(M * activation_row_bytes(weight, K));
}

void matmul_quantized(const QuantKernels& kernels, int threads, MatmulDims d, const float* A, WeightView W,
                      float* C, Epilogue e, std::span<std::byte> scratch) {
  const bool bf16 = W.dtype == DType::BF16;
  const int64_t a_stride = activation_row_bytes(W.dtype, d.K);
  const bool halves = bf16 || W.dtype == DType::F16;
  const int64_t most_activations = halves ? max_half_activations : max_tile_activations;
  const int64_t w_stride = W.panels ? panel_bytes(W.dtype, d.K) : row_bytes(W.dtype, d.K);
  const int64_t stride_rows = W.panels ? panel_rows : 1;
  const int64_t pass_rows = static_cast<int64_t>(scratch.size()) / a_stride;  // at least 1, says the contract
  const int64_t w_tiles = (d.N + weight_rows_per_tile - 1) / weight_rows_per_tile;
  for (int64_t pass = 0; pass < d.M; pass += pass_rows) {
    const int64_t rows = std::min(pass_rows, d.M - pass);
    parallel_ranges(threads, rows, rows_per_task(d.K), [&](int64_t begin, int64_t end) {
      for (int64_t m = begin; m < end; ++m) {
        const float* x = A + (pass + m) * d.K;
        std::byte* a = scratch.data() + m * a_stride;
        bf16 ? kernels.convert_bf16(d.K, x, a) : kernels.convert_activations(W.dtype, d.K, x, a);
      }
    });
    const int64_t a_tiles = (rows + most_activations - 1) / most_activations;
    parallel_tasks(threads, w_tiles * a_tiles, [&](int64_t task, int) {
      const int64_t n = task / a_tiles * weight_rows_per_tile, m = task % a_tiles * most_activations;
      const int64_t offset = (pass + m) * d.N + n;
      const TileProduct tile{.K = d.K,
                             .w = static_cast<const std::byte*>(W.data) + n / stride_rows * w_stride,
                             .w_rows = std::min(weight_rows_per_tile, d.N - n),
                             .w_stride = w_stride,
                             .panels = W.panels,
                             .a = scratch.data() + m * a_stride,
                             .a_rows = std::min(most_activations, rows - m),
                             .a_stride = a_stride,
                             .out = C + offset,
                             .ldo = d.N,
                             .accumulate = e.accumulate,
                             .residual = e.residual ? e.residual + offset : nullptr};
      bf16 ? kernels.matmul_bf16(tile) : kernels.matmul_tile(W.dtype, tile);
    });
  }
}

void make_panels(const QuantKernels& kernels, int threads, DType dtype, int64_t N, int64_t K,
                 const void* rows, void* panels) {
  const int64_t bytes = panel_bytes(dtype, K), stride = row_bytes(dtype, K);
  parallel_ranges(threads, N, weight_rows_per_tile, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; n += panel_rows)
      kernels.make_panel(dtype, K, static_cast<const std::byte*>(rows) + n * stride,
                         std::min(panel_rows, N - n),
                         static_cast<std::byte*>(panels) + n / panel_rows * bytes);
  });
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
