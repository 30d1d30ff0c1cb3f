// RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467).
#pragma once

#include <cmath>
#include <cstdint>

namespace gladius::reference {

// r[m] = 1/sqrt(mean_c x[m,c]² + eps), y[m,c] = x[m,c] * r[m] * w[c]; r may be null.
template <class T>
void rms_norm(int64_t M, int64_t C, double eps, const T* x, const T* w, T* y, T* r) {
  for (int64_t m = 0; m < M; ++m, x += C, y += C) {
    double squares = 0;
    for (int64_t c = 0; c < C; ++c) squares += double(x[c]) * double(x[c]);
    const double inverse = 1.0 / std::sqrt(squares / double(C) + eps);
    for (int64_t c = 0; c < C; ++c) y[c] = T(double(x[c]) * inverse * double(w[c]));
    if (r) r[m] = T(inverse);
  }
}

// With g[c] = dy[m,c] * w[c]: dx[m,c] = r[m] * (g[c] - x[m,c] * r[m]² * mean_k(g[k] * x[m,k])).
template <class T>
void rms_norm_backward_input(int64_t M, int64_t C, const T* x, const T* w, const T* r, const T* dy, T* dx,
                             bool accumulate) {
  for (int64_t m = 0; m < M; ++m, x += C, dy += C, dx += C) {
    double sum = 0;
    for (int64_t c = 0; c < C; ++c) sum += double(dy[c]) * double(w[c]) * double(x[c]);
    const double inverse = double(r[m]), mean = sum / double(C);
    for (int64_t c = 0; c < C; ++c) {
      const double d = inverse * (double(dy[c]) * double(w[c]) - double(x[c]) * inverse * inverse * mean);
      dx[c] = T(accumulate ? double(dx[c]) + d : d);
    }
  }
}

// dw[c] = sum_m dy[m,c] * x[m,c] * r[m]
template <class T>
void rms_norm_backward_weight(int64_t M, int64_t C, const T* x, const T* r, const T* dy, T* dw,
                              bool accumulate) {
  for (int64_t c = 0; c < C; ++c) {
    double sum = accumulate ? double(dw[c]) : 0.0;
    for (int64_t m = 0; m < M; ++m) sum += double(dy[m * C + c]) * double(x[m * C + c]) * double(r[m]);
    dw[c] = T(sum);
  }
}

}  // namespace gladius::reference
