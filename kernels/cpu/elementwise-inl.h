// Kernels without any sum across elements, and the sum of squares. An element's result does not depend on its
// place: tails run through the same vector code, padded.
#pragma once

#include "kernels/cpu/float_kernels.h"
#include "kernels/cpu/simd.h"

namespace gladius::cpu {

// y[i] = f(a[i], b[i]) in vectors.
template <class Isa, class F>
GLADIUS_INLINE void map2(int64_t n, const float* a, const float* b, float* y, F f) {
  int64_t i = 0;
  for (; i + lanes<Isa> <= n; i += lanes<Isa>) store<Isa>(y + i, f(load<Isa>(a + i), load<Isa>(b + i)));
  if (i < n) store_first<Isa>(y + i, f(load_first<Isa>(a + i, n - i), load_first<Isa>(b + i, n - i)), n - i);
}

template <class Isa>
struct Elementwise {
  using V = Vec<Isa>;

  static V sigmoid(V x) { return V(1.0f) / (V(1.0f) + exp<Isa>(-x)); }

  static void add(int64_t n, const float* a, const float* b, float* y) {
    map2<Isa>(n, a, b, y, [](V x, V z) { return x + z; });
  }

  // g / (1 + exp(-g)) rather than g * sigmoid(g): one rounding less.
  static void swiglu(int64_t n, const float* g, const float* u, float* y) {
    map2<Isa>(n, g, u, y, [](V gate, V up) { return gate / (V(1.0f) + exp<Isa>(-gate)) * up; });
  }

  static void swiglu_backward(int64_t n, const float* g, const float* u, const float* dy, float* dg,
                              float* du) {
    const auto gradients = [](V gate, V up, V d, V& d_gate, V& d_up) {
      const V s = sigmoid(gate);
      d_up = d * (gate * s);
      d_gate = d * up * s * Isa::fma(gate, V(1.0f) - s, V(1.0f));
    };
    V d_gate, d_up;
    int64_t i = 0;
    for (; i + lanes<Isa> <= n; i += lanes<Isa>) {
      gradients(load<Isa>(g + i), load<Isa>(u + i), load<Isa>(dy + i), d_gate, d_up);
      store<Isa>(dg + i, d_gate);
      store<Isa>(du + i, d_up);
    }
    if (i == n) return;
    const int64_t rest = n - i;
    gradients(load_first<Isa>(g + i, rest), load_first<Isa>(u + i, rest), load_first<Isa>(dy + i, rest),
              d_gate, d_up);
    store_first<Isa>(dg + i, d_gate, rest);
    store_first<Isa>(du + i, d_up, rest);
  }

  static void adamw(int64_t n, const AdamWStep& s, const float* grad, float* p, float* m, float* v) {
    const auto update = [&s](V g, V& weight, V& mean, V& square) {
      g = g * V(s.grad_scale);
      mean = V(s.beta1) * mean + V(1.0f - s.beta1) * g;
      square = V(s.beta2) * square + V(1.0f - s.beta2) * g * g;
      const V step = (mean / V(s.correction1)) / (xsimd::sqrt(square / V(s.correction2)) + V(s.eps));
      weight = weight - V(s.lr * s.weight_decay) * weight - V(s.lr) * step;
    };
    int64_t i = 0;
    for (; i + lanes<Isa> <= n; i += lanes<Isa>) {
      V weight = load<Isa>(p + i), mean = load<Isa>(m + i), square = load<Isa>(v + i);
      update(load<Isa>(grad + i), weight, mean, square);
      store<Isa>(p + i, weight);
      store<Isa>(m + i, mean);
      store<Isa>(v + i, square);
    }
    if (i == n) return;
    const int64_t rest = n - i;
    V weight = load_first<Isa>(p + i, rest), mean = load_first<Isa>(m + i, rest),
      square = load_first<Isa>(v + i, rest);
    update(load_first<Isa>(grad + i, rest), weight, mean, square);
    store_first<Isa>(p + i, weight, rest);
    store_first<Isa>(m + i, mean, rest);
    store_first<Isa>(v + i, square, rest);
  }

  // In double, so that squares of large floats do not overflow; a fixed order of additions, several at a
  // time.
  static double sum_of_squares(int64_t n, const float* x) {
    constexpr int64_t width = 8, parts = 8;
    using Doubles __attribute__((vector_size(width * sizeof(double)))) = double;
    using Floats __attribute__((vector_size(width * sizeof(float)))) = float;
    Doubles sums[parts] = {};
    int64_t i = 0;
    constexpr int64_t ahead = 2048;  // floats: what is read once comes too late without being asked for
    for (; i + width * parts <= n; i += width * parts) {
#pragma GCC unroll 8
      for (int64_t part = 0; part < parts; ++part) {
        if (part % 2 == 0) __builtin_prefetch(x + i + part * width + ahead);
        Floats f;
        __builtin_memcpy(&f, x + i + part * width, sizeof(f));
        const Doubles d = __builtin_convertvector(f, Doubles);
        sums[part] += d * d;
      }
    }
    double sum = 0;
    for (; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    for (int64_t part = 0; part < parts; ++part)
      for (int64_t l = 0; l < width; ++l) sum += sums[part][l];
    return sum;
  }
};

}  // namespace gladius::cpu
