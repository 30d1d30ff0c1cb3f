// Operations on single elements, and the sum of squares.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/cpu_blocking.h"
#include "kernels/parallel.h"

namespace gladius::cpu {
namespace {

constexpr int64_t light_grain = 1 << 16;  // elements of a task that moves memory
constexpr int64_t heavy_grain = 1 << 13;  // of one that computes exponentials

}  // namespace

void CpuBackend::swiglu(int64_t n, const float* g, const float* u, float* y) {
  parallel_ranges(threads_, n, heavy_grain, [&](int64_t begin, int64_t end) {
    f_.swiglu(end - begin, g + begin, u + begin, y + begin);
  });
}

void CpuBackend::swiglu_backward(int64_t n, const float* g, const float* u, const float* dy, float* dg,
                                 float* du) {
  parallel_ranges(threads_, n, heavy_grain, [&](int64_t begin, int64_t end) {
    f_.swiglu_backward(end - begin, g + begin, u + begin, dy + begin, dg + begin, du + begin);
  });
}

void CpuBackend::adamw(int64_t n, const AdamWStep& s, const float* grad, float* p, float* m, float* v) {
  parallel_ranges(threads_, n, light_grain, [&](int64_t begin, int64_t end) {
    f_.adamw(end - begin, s, grad + begin, p + begin, m + begin, v + begin);
  });
}

double CpuBackend::sum_of_squares(int64_t n, const float* x) {
  const int64_t chunk = std::max<int64_t>(1 << 16, (n + max_partial_sums - 1) / max_partial_sums);
  double* partial = partial_sums_.data();
  parallel_ranges(threads_, n, chunk, [&](int64_t begin, int64_t end) {
    partial[begin / chunk] = f_.sum_of_squares(end - begin, x + begin);
  });
  double sum = 0;
  for (int64_t i = 0; i * chunk < n; ++i) sum += partial[i];
  return sum;
}

void CpuBackend::add(int64_t n, const float* a, const float* b, float* y) {
  parallel_ranges(threads_, n, light_grain,
                  [&](int64_t begin, int64_t end) { f_.add(end - begin, a + begin, b + begin, y + begin); });
}

void CpuBackend::copy(int64_t n, const float* x, float* y) {
  parallel_ranges(threads_, n, light_grain, [&](int64_t begin, int64_t end) {
    std::memcpy(y + begin, x + begin, static_cast<size_t>(end - begin) * sizeof(float));
  });
}

void CpuBackend::fill(int64_t n, float value, float* y) {
  parallel_ranges(threads_, n, light_grain,
                  [&](int64_t begin, int64_t end) { std::fill(y + begin, y + end, value); });
}

}  // namespace gladius::cpu
