// Kernels that work on one row at a time: norms, rotations, softmax and the loss.
#pragma once

#include <cmath>

#include "kernels/cpu/elementwise-inl.h"
#include "kernels/cpu/float_kernels.h"
#include "kernels/cpu/simd.h"

namespace gladius::cpu {

// sum_i f(i) where f(i) is a vector: four running sums, so that additions need not wait for each other.
// `tail(i, n)` gives the last vector, whose lanes from n on must be 0.
template <class Isa, class F, class Tail>
GLADIUS_INLINE float sum_vectors(int64_t n, F f, Tail tail) {
  using V = Vec<Isa>;
  constexpr int64_t w = lanes<Isa>;
  V s0(0.0f), s1(0.0f), s2(0.0f), s3(0.0f);
  int64_t i = 0;
  for (; i + 4 * w <= n; i += 4 * w) {
    s0 = s0 + f(i);
    s1 = s1 + f(i + w);
    s2 = s2 + f(i + 2 * w);
    s3 = s3 + f(i + 3 * w);
  }
  for (; i + w <= n; i += w) s0 = s0 + f(i);
  if (i < n) s1 = s1 + tail(i, n - i);
  return reduce_add<Isa>((s0 + s1) + (s2 + s3));
}

template <class Isa>
struct Rows {
  using V = Vec<Isa>;
  static constexpr int64_t w = lanes<Isa>;

  static float dot(int64_t n, const float* a, const float* b) {
    return sum_vectors<Isa>(
        n, [=](int64_t i) { return load<Isa>(a + i) * load<Isa>(b + i); },
        [=](int64_t i, int64_t rest) { return load_first<Isa>(a + i, rest) * load_first<Isa>(b + i, rest); });
  }

  static float max(int64_t n, const float* x) {
    V m(-__builtin_inff());
    int64_t i = 0;
    for (; i + w <= n; i += w) m = xsimd::max(m, load<Isa>(x + i));
    if (i < n) m = xsimd::max(m, load_first<Isa>(x + i, n - i, -__builtin_inff()));
    return reduce_max<Isa>(m);
  }

  // y = exp(x - shift); returns the sum. y may be x, or null when only the sum is wanted.
  static float exp_row(int64_t n, const float* x, float shift, float* y) {
    return sum_vectors<Isa>(
        n,
        [=](int64_t i) {
          const V e = exp<Isa>(load<Isa>(x + i) - V(shift));
          if (y) store<Isa>(y + i, e);
          return e;
        },
        [=](int64_t i, int64_t rest) {
          const V e = exp<Isa>(load_first<Isa>(x + i, rest, -__builtin_inff()) - V(shift));
          if (y) store_first<Isa>(y + i, e, rest);
          return e;
        });
  }

  static void scale_row(int64_t n, float factor, float* y) {
    int64_t i = 0;
    for (; i + w <= n; i += w) store<Isa>(y + i, load<Isa>(y + i) * V(factor));
    for (; i < n; ++i) y[i] *= factor;
  }

  // 1/sqrt(mean x² + eps), in double where squares are too large for float.
  static float inverse_root_mean_square(int64_t C, float eps, const float* x) {
    const float squares = dot(C, x, x);
    if (squares <= __FLT_MAX__) return 1.0f / std::sqrt(squares / static_cast<float>(C) + eps);
    const double mean = Elementwise<Isa>::sum_of_squares(C, x) / static_cast<double>(C);
    return static_cast<float>(1.0 / std::sqrt(mean + static_cast<double>(eps)));
  }

  static void rms_norm(int64_t rows, int64_t C, float eps, const float* x, const float* weight, float* y,
                       float* r) {
    for (int64_t m = 0; m < rows; ++m, x += C, y += C) {
      const float inverse = inverse_root_mean_square(C, eps, x);
      if (r) r[m] = inverse;
      int64_t c = 0;
      for (; c + w <= C; c += w) store<Isa>(y + c, load<Isa>(x + c) * V(inverse) * load<Isa>(weight + c));
      for (; c < C; ++c) y[c] = x[c] * inverse * weight[c];
    }
  }

  // A row is read from memory once: first for dw and for the sum that dx needs, then, from the cache, for dx.
  static void rms_norm_backward(const NormBackwardTask& t) {
    if (t.dw.data && !t.dw.accumulate)
      for (int64_t c = 0; c < t.C; ++c) t.dw.data[c] = 0.0f;
    for (int64_t m = 0; m < t.rows; ++m) {
      const float *x = t.x + m * t.C, *dy = t.dy + m * t.C;
      const float sum = norm_row_sums(t.C, x, t.w, V(t.r[m]), dy, t.dw.data);
      if (t.dx.data) norm_row_gradient(t, t.r[m], t.r[m] * t.r[m] * (sum / static_cast<float>(t.C)), m * t.C);
    }
  }

  // sum_c dy[c] w[c] x[c], and dw[c] += dy[c] x[c] r unless dw is null.
  static float norm_row_sums(int64_t C, const float* x, const float* weight, V r, const float* dy,
                             float* dw) {
    return sum_vectors<Isa>(
        C,
        [=](int64_t i) {
          const V x_c = load<Isa>(x + i), dy_c = load<Isa>(dy + i);
          if (dw) store<Isa>(dw + i, Isa::fma(dy_c * r, x_c, load<Isa>(dw + i)));
          return dy_c * load<Isa>(weight + i) * x_c;
        },
        [=](int64_t i, int64_t n) {
          const V x_c = load_first<Isa>(x + i, n), dy_c = load_first<Isa>(dy + i, n);
          if (dw) store_first<Isa>(dw + i, Isa::fma(dy_c * r, x_c, load_first<Isa>(dw + i, n)), n);
          return dy_c * load_first<Isa>(weight + i, n) * x_c;
        });
  }

  // dx[c] (+)= r (dy[c] w[c] - x[c] factor) of the row that starts at element `row`.
  static void norm_row_gradient(const NormBackwardTask& t, float r, float factor, int64_t row) {
    const float *x = t.x + row, *dy = t.dy + row;
    float* dx = t.dx.data + row;
    const auto gradient = [&](V x_c, V w_c, V dy_c) { return V(r) * (dy_c * w_c - x_c * V(factor)); };
    int64_t c = 0;
    for (; c + w <= t.C; c += w) {
      __builtin_prefetch(x + t.C + c);  // the next row, while this one is not waited for
      __builtin_prefetch(dy + t.C + c);
      __builtin_prefetch(dx + t.C + c, 1);
      V d = gradient(load<Isa>(x + c), load<Isa>(t.w + c), load<Isa>(dy + c));
      if (t.dx.accumulate) d = d + load<Isa>(dx + c);
      store<Isa>(dx + c, d);
    }
    if (c == t.C) return;
    const int64_t n = t.C - c;
    V d = gradient(load_first<Isa>(x + c, n), load_first<Isa>(t.w + c, n), load_first<Isa>(dy + c, n));
    if (t.dx.accumulate) d = d + load_first<Isa>(dx + c, n);
    store_first<Isa>(dx + c, d, n);
  }

  // A plain loop over pairs: compilers vectorise it, shuffles included.
  static void rope(const RopeDims& d, const float* cos, const float* sin, RopeDirection direction,
                   const float* x, float* y) {
    const float sign = direction == RopeDirection::forward ? 1.0f : -1.0f;
    for (int64_t h = 0; h < d.heads; ++h, x += d.D, y += d.D) {
      for (int64_t i = 0; i < d.D / 2; ++i) {
        const float even = x[2 * i], odd = x[2 * i + 1], s = sign * sin[i];
        y[2 * i] = even * cos[i] - odd * s;
        y[2 * i + 1] = even * s + odd * cos[i];
      }
    }
  }

  static void softmax(int64_t N, const float* x, float* y) {
    scale_row(N, 1.0f / exp_row(N, x, max(N, x), y), y);
  }

  static void softmax_backward(int64_t N, const float* y, const float* dy, float* dx) {
    const float sum = dot(N, dy, y);
    int64_t i = 0;
    for (; i + w <= N; i += w) store<Isa>(dx + i, load<Isa>(y + i) * (load<Isa>(dy + i) - V(sum)));
    for (; i < N; ++i) dx[i] = y[i] * (dy[i] - sum);
  }

  static float cross_entropy(int64_t vocabulary, float* z, int32_t target, float grad_scale, bool gradient) {
    const float largest = max(vocabulary, z), z_target = z[target];
    const float sum = exp_row(vocabulary, z, largest, gradient ? z : nullptr);
    if (gradient) {
      scale_row(vocabulary, grad_scale / sum, z);
      z[target] -= grad_scale;
    }
    return std::log(sum) + (largest - z_target);
  }
};

}  // namespace gladius::cpu
