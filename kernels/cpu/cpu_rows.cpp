// Operations on rows: norms, rotations, softmax, embedding and the loss.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/cpu_blocking.h"
#include "kernels/parallel.h"

namespace gladius::cpu {
namespace {

// Rows of a task, so that it has about `work` elements.
int64_t rows_of(int64_t work, int64_t row) { return std::max<int64_t>(1, work / std::max<int64_t>(1, row)); }

constexpr int64_t column_grain = 64;  // columns of a task where rows are summed

}  // namespace

void CpuBackend::rms_norm(int64_t M, int64_t C, float eps, const float* x, const float* w, float* y,
                          float* r) {
  parallel_ranges(threads_, M, rows_of(1 << 14, C), [&](int64_t begin, int64_t end) {
    f_.rms_norm(end - begin, C, eps, x + begin * C, w, y + begin * C, r ? r + begin : nullptr);
  });
}

// Rows are cut into chunks that read x and dy once for both gradients. The first chunk's dw is made in place,
// the others' in scratch memory, and added in order: an error grows with a chunk's rows plus the number of
// chunks.
void CpuBackend::rms_norm_backward(int64_t M, int64_t C, const RmsNormState& f, const float* dy,
                                   GradTarget dx, GradTarget dw) {
  const int64_t most = 1 + norm_partial_floats / std::max<int64_t>(1, C);
  const int64_t rows = std::max(rows_of(1 << 14, C), (M + most - 1) / most);
  const auto partial = [&](int64_t chunk) { return norm_partials_.data() + (chunk - 1) * C; };
  parallel_ranges(threads_, M, rows, [&](int64_t begin, int64_t end) {
    const int64_t at = begin * C;
    const GradTarget x_part{dx.data ? dx.data + at : nullptr, dx.accumulate};
    const GradTarget w_part = !dw.data || begin == 0 ? dw : GradTarget{partial(begin / rows), false};
    f_.rms_norm_backward({end - begin, C, f.x + at, f.w, f.r + begin, dy + at, x_part, w_part});
  });
  if (!dw.data) return;
  if (M == 0 && !dw.accumulate) fill(C, 0.0f, dw.data);
  for (int64_t i = 1; i * rows < M; ++i) f_.add(C, dw.data, partial(i), dw.data);
}

void CpuBackend::rope(RopeDims d, const int32_t* positions, const float* cos, const float* sin,
                      RopeDirection direction, const float* x, float* y) {
  parallel_ranges(threads_, d.M, rows_of(1 << 14, d.heads * d.D), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      const int64_t angle = positions[m] * (d.D / 2);
      f_.rope(d, cos + angle, sin + angle, direction, x + m * d.stride, y + m * d.stride);
    }
  });
}

void CpuBackend::softmax(int64_t M, int64_t N, const float* x, float* y) {
  parallel_ranges(threads_, M, rows_of(1 << 13, N), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) f_.softmax(N, x + m * N, y + m * N);
  });
}

void CpuBackend::softmax_backward(int64_t M, int64_t N, const float* y, const float* dy, float* dx) {
  parallel_ranges(threads_, M, rows_of(1 << 14, N), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) f_.softmax_backward(N, y + m * N, dy + m * N, dx + m * N);
  });
}

void CpuBackend::embedding(LossDims d, const int32_t* tokens, WeightView W, float* y) {
  const int64_t row = row_bytes(W.dtype, d.C);
  parallel_ranges(threads_, d.M, rows_of(1 << 13, d.C), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m)
      table_.q.dequantize_row(W.dtype, d.C, static_cast<const char*>(W.data) + tokens[m] * row, y + m * d.C);
  });
}

// Split over columns, so that a token that occurs twice is added to by one thread, in order.
void CpuBackend::embedding_backward(LossDims d, const int32_t* tokens, const float* dy, float* dW,
                                    bool accumulate) {
  if (!accumulate) fill(d.V * d.C, 0.0f, dW);
  parallel_ranges(threads_, d.C, column_grain, [&](int64_t begin, int64_t end) {
    for (int64_t m = 0; m < d.M; ++m) {
      float* row = dW + tokens[m] * d.C + begin;
      f_.add(end - begin, row, dy + m * d.C + begin, row);
    }
  });
}

void CpuBackend::linear_cross_entropy(LossDims d, const float* h, const float* W, const int32_t* targets,
                                      LogitsRoom logits, float* losses, const LossGradients& g) {
  const bool gradient = g.dh != nullptr;
  if (gradient && d.M == 0 && !g.dW.accumulate) fill(d.V * d.C, 0.0f, g.dW.data);
  for (int64_t begin = 0; begin < d.M; begin += logits.rows) {
    const int64_t rows = std::min(logits.rows, d.M - begin);
    matmul_nt({rows, d.V, d.C, d.precision}, h + begin * d.C, W, logits.data, {});
    parallel_tasks(threads_, rows, [&](int64_t i, int) {
      float* z = logits.data + i * d.V;
      const int32_t target = targets[begin + i];
      if (target >= 0) {
        losses[begin + i] = f_.cross_entropy(d.V, z, target, g.scale, gradient);
      } else {
        losses[begin + i] = 0.0f;
        if (gradient) std::fill_n(z, d.V, 0.0f);
      }
    });
    if (!gradient) continue;
    matmul_nn({rows, d.C, d.V, d.precision}, logits.data, W, g.dh + begin * d.C, {});
    matmul_tn({d.V, d.C, rows, d.precision}, logits.data, h + begin * d.C, g.dW.data,
              {.accumulate = g.dW.accumulate || begin > 0});
  }
}

}  // namespace gladius::cpu
