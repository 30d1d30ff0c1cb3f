#include "kernels/cpu/quant_backend.h"

#include <algorithm>

#include "kernels/blocks.h"
#include "kernels/cpu/weight_panels.h"
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

namespace {

int64_t tiles_of(const WeightProduct& p) { return (p.N + weight_rows_per_tile - 1) / weight_rows_per_tile; }

// As many as a tile may take, which unpacks the weight least often, but fewer where threads would have
// nothing to do. Results do not depend on it.
int64_t activations_per_tile(int64_t rows, int64_t w_tiles, int threads) {
  constexpr int64_t least = 48, tasks_per_thread = 3;
  int64_t n = max_tile_activations;
  while (n / 2 >= least && w_tiles * ((rows + n - 1) / n) < tasks_per_thread * threads) n /= 2;
  return n;
}

// How many neighbouring tiles a thread takes at a time. Where memory is what is waited for, it reads on where
// it was: what it asked for ahead is its own. Where activations are many, tiles of the same weights, which
// are neighbours, go to all threads.
int64_t neighbours_at_once(int64_t w_tiles, int64_t a_tiles, int threads) {
  constexpr int64_t least_turns = 3;  // of a thread: others may be slower
  return a_tiles > 1 ? 1 : std::max<int64_t>(1, w_tiles / (least_turns * threads));
}

// The tile of weight rows [n, n + weight_rows_per_tile) and a_rows converted activations from `a` on, whose
// results go into rows from m on.
TileProduct tile_of(const WeightProduct& p, int64_t K, int64_t n, int64_t m, const std::byte* a,
                    int64_t a_rows, Epilogue e) {
  const int64_t stride = p.W.panels ? panel_bytes(p.W.dtype, K) : row_bytes(p.W.dtype, K);
  const int64_t offset = m * p.N + n;
  return {.K = K,
          .w = static_cast<const std::byte*>(p.W.data) + (p.W.panels ? n / panel_rows : n) * stride,
          .w_rows = std::min(weight_rows_per_tile, p.N - n),
          .w_stride = stride,
          .panels = p.W.panels,
          .a = a,
          .a_rows = a_rows,
          .a_stride = activation_row_bytes(p.W.dtype, K),
          .out = p.C + offset,
          .ldo = p.N,
          .accumulate = e.accumulate,
          .residual = e.residual ? e.residual + offset : nullptr};
}

}  // namespace

void matmul_quantized(const QuantKernels& kernels, int threads, MatmulDims d, const float* A,
                      std::span<const WeightProduct> products, Epilogue e, std::span<std::byte> scratch) {
  const DType dtype = products[0].W.dtype;
  const bool pairs = dtype == DType::BF16 && kernels.pairs.tile;
  const int64_t a_stride = activation_row_bytes(dtype, d.K);
  const int64_t pass_rows = static_cast<int64_t>(scratch.size()) / a_stride;  // at least 1, says the contract
  int64_t w_tiles = 0;
  for (const WeightProduct& p : products) w_tiles += tiles_of(p);
  for (int64_t pass = 0; pass < d.M; pass += pass_rows) {
    const int64_t rows = std::min(pass_rows, d.M - pass);
    parallel_ranges(threads, rows, rows_per_task(d.K), [&](int64_t begin, int64_t end) {
      for (int64_t m = begin; m < end; ++m) {
        const float* x = A + (pass + m) * d.K;
        std::byte* a = scratch.data() + m * a_stride;
        pairs ? kernels.pairs.convert(d.K, x, a) : kernels.convert_activations(dtype, d.K, x, a);
      }
    });
    const int64_t tile_rows = activations_per_tile(rows, w_tiles, threads);
    const int64_t a_tiles = (rows + tile_rows - 1) / tile_rows;
    const auto tile_task = [&](int64_t task, int) {
      int64_t w_tile = task / a_tiles;
      const WeightProduct* p = products.data();
      for (; w_tile >= tiles_of(*p); ++p) w_tile -= tiles_of(*p);
      const int64_t m = task % a_tiles * tile_rows;
      const TileProduct tile = tile_of(*p, d.K, w_tile * weight_rows_per_tile, pass + m,
                                       scratch.data() + m * a_stride, std::min(tile_rows, rows - m), e);
      pairs ? kernels.pairs.tile(tile) : kernels.matmul_tile(p->W.dtype, tile);
    };
    parallel_tasks(threads, w_tiles * a_tiles, tile_task, neighbours_at_once(w_tiles, a_tiles, threads));
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
